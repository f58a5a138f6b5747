//! What layers below all edits make of the rows is computed once, and changes nothing.

use jola_trainer::data::CachedRows;
use jola_trainer::method::{Edits, Init, Method};
use jola_trainer::model::{Batch, Model, Precision, Sequence};
use jola_trainer::train::backward;
use tch::{Device, Tensor};

use super::runs::{run, SETTINGS};
use super::support::{model, rows};

/// Numbers of the rows of a batch; not in order, and not all.
const CHOSEN: [usize; 3] = [5, 0, 3];

fn upper_layer() -> Method {
    Method::Layerwise { layers: vec![1] }
}

/// Loss and gradient of edits of the upper layer, with so many layers computed again.
fn loss_and_gradient(model: &Model, batch: &Batch, again: usize) -> (f64, Tensor) {
    let init = Init {
        vector_std: 0.3,
        ..Init::DEFAULT
    };
    let head_rms = model.head_rms(&Batch::pack(&rows(3, 1), Device::Cpu));
    let edits = Edits::new(upper_layer(), 16, &head_rms, init, 9);
    let loss = backward(model, batch, &edits.final_changes(), again).task;
    (loss.double_value(&[]), edits.halves[0].vectors.grad())
}

fn assert_kept_is_the_same(model: &Model, sequences: &[Sequence]) {
    let mut kept = CachedRows::new(sequences);
    let plain = kept.pack(&CHOSEN, Device::Cpu);
    kept.keep(model, 1);
    let entered = kept.pack(&CHOSEN, Device::Cpu);
    assert!(plain.entry.is_none() && entered.entry.is_some());
    let (loss, gradient) = loss_and_gradient(model, &plain, 0);
    for again in [0, 2] {
        let (same, also) = loss_and_gradient(model, &entered, again);
        assert!((loss - same).abs() < 1e-12, "{loss} {same}");
        assert!(gradient.allclose(&also, 1e-9, 1e-12, false));
    }
}

#[test]
fn loss_and_gradient_are_those_of_a_whole_forward_pass() {
    let model = model(Precision::F64);
    let rows = rows(7, 2);
    assert_kept_is_the_same(&model, &rows);
    // All begin alike, and the three of the batch a little longer than the others.
    let prefix: Vec<i64> = (0..20).map(|i| 3 + i % 7).collect();
    let prefixed = |(i, row): (usize, &Sequence)| {
        let own = i64::from(!CHOSEN.contains(&i));
        let prefix = [&prefix[..], &[own]].concat();
        let tokens = [&prefix[..], &row.tokens].concat();
        Sequence::new(tokens, prefix.len() + row.n_prompt())
    };
    let prefixed: Vec<Sequence> = rows.iter().enumerate().map(prefixed).collect();
    assert_kept_is_the_same(&model, &prefixed);
}

#[test]
fn a_run_keeps_them_when_it_saves_memory_and_only_then() {
    let model = model(Precision::F32);
    let kept = |batch_size: usize, recomputed: usize| {
        let settings = jola_trainer::train::Settings {
            method: upper_layer(),
            batch_size,
            recomputed,
            ..SETTINGS
        };
        let (_, outcome, lines) = run(&model, &settings).unwrap();
        let lines = lines.iter().filter(|line| line.contains("computed once"));
        (outcome.validation().unwrap().loss, lines.count())
    };
    let (with, lines) = kept(24, 0);
    assert_eq!(lines, 2, "training and validation rows");
    // Computed again, a layer saves nothing.
    let (without, lines) = kept(24, 1);
    assert_eq!(lines, 0);
    assert!((with - without).abs() < 1e-4, "{with} {without}");
    let (_, lines) = kept(1, 0);
    assert_eq!(
        lines, 1,
        "one row saves less than 24 rows take, more than 8"
    );
}
