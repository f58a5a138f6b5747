//! The divergence from the unedited model within the prompts: the same as over all tokens packed
//! in another way, and less where it counts.

use jola_trainer::data::{CachedRows, PromptReference};
use jola_trainer::method::{Edits, Init, Method};
use jola_trainer::model::{Batch, LayerChange, Model, Precision, Sequence};
use jola_trainer::train::{backward, Losses, Settings};
use tch::{no_grad, Device, Kind, Tensor};

use super::runs::{edits, run_on, SETTINGS};
use super::support::{model, rows};

/// What the divergence counts for.
const WEIGHT: f64 = 0.7;
/// Numbers of the rows of a batch; not in order, and not all.
const CHOSEN: [usize; 3] = [5, 0, 3];

/// Rows that all begin alike, and those of the batch a little longer than the others.
fn prefixed() -> Vec<Sequence> {
    let prefix: Vec<i64> = (0..20).map(|i| 3 + i % 7).collect();
    let row = |(i, row): (usize, Sequence)| {
        let own = i64::from(!CHOSEN.contains(&i));
        let tokens = [&prefix[..], &[own], &row.tokens].concat();
        Sequence::new(tokens, prefix.len() + 1 + row.n_prompt())
    };
    rows(7, 2).into_iter().enumerate().map(row).collect()
}

fn fresh_edits(model: &Model, vector_std: f64) -> Edits {
    let init = Init {
        vector_std,
        ..Init::DEFAULT
    };
    let head_rms = model.head_rms(&Batch::pack(&rows(3, 1), Device::Cpu));
    Edits::new(Method::Ungated, 16, &head_rms, init, 9)
}

/// Cross-entropy and divergence of a batch, from the log-softmax of both models at all its tokens.
fn plain(model: &Model, batch: &Batch, changes: &[LayerChange]) -> (Tensor, Tensor) {
    let everywhere = |changes: &[LayerChange]| {
        let all = Batch {
            tokens: batch.tokens.copy(),
            positions: batch.positions.copy(),
            bunches: batch.bunches.clone(),
            rows: Tensor::arange(batch.tokens.size()[0], (Kind::Int64, Device::Cpu)),
            targets: batch.targets.copy(),
            reference: None,
            entry: None,
        };
        model.forward(&all, changes).log_softmax(-1, None)
    };
    let edited = everywhere(changes);
    let unedited = no_grad(|| everywhere(&LayerChange::none(changes.len())));
    let n = batch.targets.size()[0];
    let answers = edited.index_select(0, &batch.rows.narrow(0, 0, n));
    let task = answers.nll_loss(&batch.targets);
    let places = batch.rows.narrow(0, n, batch.rows.size()[0] - n);
    let [edited, unedited] = [edited, unedited].map(|all| all.index_select(0, &places));
    let kl = (unedited.exp() * (&unedited - edited)).sum_dim_intlist(-1, false, None);
    (task, kl.mean(None))
}

#[test]
fn losses_and_gradient_are_those_of_all_tokens() {
    let model = model(Precision::F64);
    for rows in [rows(7, 2), prefixed()] {
        let unedited = PromptReference::measure(&model, &rows);
        let cached = CachedRows::new(&rows);
        let batch = cached.pack_beside(&CHOSEN, (&unedited, 1), WEIGHT, Device::Cpu);
        let edits = fresh_edits(&model, 0.3);
        let gradient = || {
            let mut vectors = edits.halves[0].vectors.shallow_clone();
            let gradient = vectors.grad().copy();
            vectors.zero_grad();
            gradient
        };
        let (task, kl) = plain(&model, &batch, &edits.final_changes());
        (&task + &kl * WEIGHT).backward();
        let expected = gradient();
        for again in 0..=2 {
            let losses = backward(&model, &batch, &edits.final_changes(), again);
            let found = [Some(losses.task), losses.kl];
            for (found, expected) in found.iter().flatten().zip([&task, &kl]) {
                let error = (found - expected).abs().double_value(&[]);
                assert!(error < 1e-10, "{again}: {found:?} {expected:?}");
            }
            let found = gradient();
            let error = ((&found - &expected).norm() / expected.norm()).double_value(&[]);
            assert!(error < 1e-10, "{again} layers again: {error}");
        }
    }
}

#[test]
fn places_lie_in_what_is_a_rows_own_of_its_prompt() {
    let model = model(Precision::F64);
    let rows = prefixed();
    let unedited = PromptReference::measure(&model, &rows);
    let cached = CachedRows::new(&rows);
    for (row, sequence) in rows.iter().enumerate() {
        let places = |turn| {
            let batch = cached.pack_beside(&[row], (&unedited, turn), WEIGHT, Device::Cpu);
            let n = batch.targets.size()[0];
            let places = batch.rows.narrow(0, n, batch.rows.size()[0] - n);
            Vec::<i64>::try_from(places).unwrap()
        };
        let last = sequence.n_prompt() as i64 - 1;
        for turn in 0..5 {
            let own = places(turn);
            assert!((1..=4).contains(&own.len()), "{own:?}");
            assert!(
                own.iter().all(|place| (20..last).contains(place)),
                "{own:?}"
            );
        }
    }
}

#[test]
fn an_edit_that_does_nothing_does_not_diverge() {
    let model = model(Precision::F64);
    let rows = rows(7, 2);
    let unedited = PromptReference::measure(&model, &rows);
    let batch = CachedRows::new(&rows).pack_beside(&CHOSEN, (&unedited, 0), WEIGHT, Device::Cpu);
    let edits = fresh_edits(&model, 0.0);
    let Losses { kl, .. } = backward(&model, &batch, &edits.final_changes(), 0);
    assert!(kl.unwrap().abs().double_value(&[]) < 1e-12);
}

#[test]
fn a_run_diverges_less_where_it_counts() {
    let model = model(Precision::F32);
    let rows = rows(24, 1);
    let unedited = PromptReference::measure(&model, &rows);
    let all: Vec<usize> = (0..rows.len()).collect();
    let batch = CachedRows::new(&rows).pack_beside(&all, (&unedited, 0), 1.0, Device::Cpu);
    let divergence = |kl| {
        let settings = Settings { kl, ..SETTINGS };
        let (trained, ..) = run_on(&model, &settings, super::support::rows).unwrap();
        let changes = edits(trained).final_changes();
        backward(&model, &batch, &changes, 0)
            .kl
            .unwrap()
            .double_value(&[])
    };
    let [free, held] = [0.0, 10.0].map(divergence);
    assert!(held < 0.5 * free, "{held} {free}");
}
