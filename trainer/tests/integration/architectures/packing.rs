//! Rows in one batch are computed as if each were alone, in every way in which layers differ:
//! windows, rotations of their own, layers that do not rotate, factors of short and long
//! contexts. All in float64, where nothing but a mistake makes a difference.

use jola_trainer::data::CachedRows;
use jola_trainer::method::{Edits, Init, Method};
use jola_trainer::model::{Batch, Model, Precision, Sequence};
use jola_trainer::train::{backward, cross_entropy};
use tch::{Device, Tensor};

use super::cases::{longrope, usual};
use testkit::tiny::{Tiny, VOCABULARY};
use testkit::Random;

/// Width of the window of layers that have one; rows are longer.
const WINDOW: usize = 8;
/// Tokens that all rows begin with.
const PREFIX: usize = 20;
/// Lengths of what follows, and how much of it is prompt.
const ROWS: [(usize, usize); 5] = [(7, 2), (31, 5), (3, 1), (12, 9), (18, 4)];
/// The original context of the model with two sets of factors: some rows are longer.
const ORIGINAL: usize = 32;

fn models() -> Vec<(&'static str, Tiny)> {
    let windowed = ["gemma2", "gemma3", "olmo2"].map(|architecture| {
        let mut tiny = usual(architecture);
        tiny.count("attention.sliding_window", WINDOW);
        (architecture, tiny)
    });
    let mut stretched = usual("phi3");
    longrope(&mut stretched, ORIGINAL);
    let others = [("smollm3", usual("smollm3")), ("longrope", stretched)];
    windowed.into_iter().chain(others).collect()
}

fn load(tiny: &Tiny) -> Model {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path(), "tiny");
    Model::load(&path, Precision::F64, Device::Cpu).unwrap()
}

/// Rows with two learned parts each, that begin alike or not.
fn rows(prefixed: bool) -> Vec<Sequence> {
    let mut random = Random::new(5);
    let mut tokens =
        |n: usize| -> Vec<i64> { (0..n).map(|_| random.below(VOCABULARY) as i64).collect() };
    let prefix = tokens(PREFIX);
    let row = |(own, prompt): (usize, usize)| {
        let start = if prefixed {
            prefix.clone()
        } else {
            tokens(PREFIX)
        };
        let (all, first) = (PREFIX + own, PREFIX + prompt);
        let second = (all > first + 3).then_some(first + 2..all);
        let targets = std::iter::once(first..first + 1).chain(second).collect();
        Sequence {
            tokens: [start, tokens(own)].concat(),
            targets,
        }
    };
    ROWS.map(row).to_vec()
}

/// Edits of all layers but the lowest.
fn edits(model: &Model, rows: &[Sequence]) -> Edits {
    let init = Init {
        vector_std: 0.3,
        ..Init::DEFAULT
    };
    let layers = (1..model.config.n_layer).collect();
    let head_rms = model.head_rms(&Batch::pack(rows, Device::Cpu));
    Edits::new(Method::Layerwise { layers }, 16, &head_rms, init, 9)
}

/// Sums over all targets of loss and gradient, the batches one after the other; with
/// `recomputed` layers gone through twice.
fn sums(model: &Model, edits: &Edits, batches: &[Batch], recomputed: usize) -> (f64, Vec<Tensor>) {
    let mut sum = 0.0;
    let mut gradients: Vec<Tensor> = Vec::new();
    for batch in batches {
        let n = batch.n_rows() as f64;
        edits.halves.iter().for_each(|half| {
            let mut vectors = half.vectors.shallow_clone();
            vectors.zero_grad();
        });
        let loss = match recomputed {
            0 => {
                let loss = cross_entropy(model, batch, &edits.final_changes());
                loss.backward();
                loss
            }
            _ => backward(model, batch, &edits.final_changes(), recomputed).task,
        };
        sum += loss.double_value(&[]) * n;
        let own = edits.halves.iter().map(|half| half.vectors.grad() * n);
        gradients = match gradients.is_empty() {
            true => own.collect(),
            false => gradients
                .iter()
                .zip(own)
                .map(|(sum, own)| sum + own)
                .collect(),
        };
    }
    (sum, gradients)
}

fn assert_same(what: &str, found: (f64, Vec<Tensor>), expected: &(f64, Vec<Tensor>)) {
    let error = (found.0 / expected.0 - 1.0).abs();
    assert!(error < 1e-12, "{what}: loss off by {error:e}");
    for (found, expected) in found.1.iter().zip(&expected.1) {
        let error = ((found - expected).norm() / expected.norm()).double_value(&[]);
        assert!(error < 1e-10, "{what}: gradient off by {error:e}");
    }
}

#[test]
fn together_with_a_shared_prefix_and_with_kept_layers_rows_are_as_alone() {
    for (name, tiny) in models() {
        for prefixed in [false, true] {
            let what = format!("{name}, prefixed: {prefixed}");
            let rows = rows(prefixed);
            let mut model = load(&tiny);
            model.serve_rows(rows.iter());
            let edits = edits(&model, &rows);
            let alone: Vec<Batch> = rows
                .iter()
                .map(|row| Batch::pack([row], Device::Cpu))
                .collect();
            let expected = sums(&model, &edits, &alone, 0);

            let together = Batch::pack(&rows, Device::Cpu);
            let prefix = together.bunches[0].prefix;
            assert_eq!(prefix >= PREFIX as i64, prefixed, "{what}");
            let batches = [together];
            assert_same(&what, sums(&model, &edits, &batches, 0), &expected);
            let twice = sums(&model, &edits, &batches, model.config.n_layer - 1);
            assert_same(&format!("{what}, layers computed twice"), twice, &expected);

            let mut kept = CachedRows::new(&rows);
            kept.keep(&model, 1);
            let entered = kept.pack(&[0, 1, 2, 3, 4], Device::Cpu);
            assert!(entered.entry.is_some());
            let kept = sums(&model, &edits, &[entered], 0);
            assert_same(&format!("{what}, kept layers"), kept, &expected);
        }
    }
}

/// Which factors a row is turned by must not depend on what else is in its batch.
#[test]
fn a_run_with_one_long_row_takes_the_long_factors_for_all() {
    let (_, tiny) = models().pop().unwrap();
    let rows = rows(false);
    let short = rows.iter().find(|row| row.tokens.len() < ORIGINAL).unwrap();
    let logits = |served: &[&Sequence]| {
        let mut model = load(&tiny);
        model.serve_rows(served.iter().copied());
        let none = jola_trainer::model::LayerChange::none(model.config.n_layer);
        model.forward(&Batch::pack([short], Device::Cpu), &none)
    };
    let all: Vec<&Sequence> = rows.iter().collect();
    let (alone, among_long) = (logits(&[short]), logits(&all));
    assert!(!alone.allclose(&among_long, 1e-3, 1e-3, false));
}

#[test]
fn each_bunch_continues_its_own_prefix() {
    for (name, tiny) in models() {
        let (first, mut second) = (rows(true), rows(true));
        for token in second.iter_mut().flat_map(|row| &mut row.tokens) {
            *token = (*token + 1) % VOCABULARY as i64;
        }
        let mut model = load(&tiny);
        model.serve_rows(first.iter().chain(&second));
        let edits = edits(&model, &first);
        let alone = first.iter().chain(&second);
        let alone: Vec<Batch> = alone.map(|row| Batch::pack([row], Device::Cpu)).collect();
        let expected = sums(&model, &edits, &alone, 0);
        let bunched = [Batch::pack_bunches([&first, &second], Device::Cpu)];
        assert!(bunched[0]
            .bunches
            .iter()
            .all(|bunch| bunch.prefix >= PREFIX as i64));
        assert_same(name, sums(&model, &edits, &bunched, 0), &expected);
    }
}
