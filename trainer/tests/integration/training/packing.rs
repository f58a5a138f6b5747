//! Sequences packed into one batch are computed as if each were alone.

use jola_trainer::method::{Edits, Init, Method};
use jola_trainer::model::{Batch, LayerChange, Model, Precision, Sequence};
use jola_trainer::train::cross_entropy;
use tch::{no_grad, Device, Kind, Tensor};

use super::support::{model, rows};

fn parameters(model: &Model, batch: &Batch) -> Edits {
    let init = Init {
        vector_std: 0.3,
        log_alpha: 2.0,
        ..Init::DEFAULT
    };
    Edits::new(Method::Jola, 16, &model.head_rms(batch), init, 9)
}

fn edits(model: &Model, batch: &Batch) -> Vec<LayerChange> {
    let edits = parameters(model, batch);
    edits.layer_changes(&edits.fixed_gates())
}

fn difference(precision: Precision, rows: &[Sequence]) -> f64 {
    let model = model(precision);
    let packed = Batch::pack(rows, Device::Cpu);
    let edits = edits(&model, &packed);
    no_grad(|| {
        let alone = |row: &Sequence| model.forward(&Batch::pack([row], Device::Cpu), &edits);
        let alone: Vec<Tensor> = rows.iter().map(alone).collect();
        let together = model.forward(&packed, &edits);
        let alone = Tensor::cat(&alone, 0);
        let error = (&together - &alone).norm() / alone.norm();
        error.to_kind(Kind::Double).double_value(&[])
    })
}

#[test]
fn packed_equals_alone() {
    let error = difference(Precision::F32, &rows(7, 2));
    assert!(error < 1e-5, "{error}");
    let error = difference(Precision::F64, &rows(7, 2));
    assert!(error < 1e-13, "{error}");
}

/// As other trainers do it: rows filled up to the longest, with targets that do not count.
fn padded(rows: &[Sequence]) -> Batch {
    const IGNORED: i64 = -100;
    let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap();
    let fill = |row: &Sequence| {
        let mut tokens = row.tokens.clone();
        tokens.resize(longest, 0);
        Sequence::new(tokens, row.n_prompt())
    };
    let filled: Vec<Sequence> = rows.iter().map(fill).collect();
    let mut batch = Batch::pack(&filled, Device::Cpu);
    let targets = rows.iter().zip(&filled).flat_map(|(row, filled)| {
        let mut targets = row.tokens[row.n_prompt()..].to_vec();
        targets.resize(filled.n_targets(), IGNORED);
        targets
    });
    batch.targets = Tensor::from_slice(&targets.collect::<Vec<i64>>());
    batch
}

#[test]
fn packed_equals_padded() {
    let model = model(Precision::F32);
    let rows = rows(7, 2);
    let (packed, padded) = (Batch::pack(&rows, Device::Cpu), padded(&rows));
    assert!(padded.tokens.numel() > packed.tokens.numel(), "no padding");
    let run = |batch: &Batch| {
        let parameters = parameters(&model, &packed);
        let edits = parameters.layer_changes(&parameters.fixed_gates());
        let loss = cross_entropy(&model, batch, &edits);
        loss.backward();
        let gradients = parameters.halves.iter().map(|half| half.vectors.grad());
        std::iter::once(loss).chain(gradients).collect::<Vec<_>>()
    };
    for (packed, padded) in run(&packed).iter().zip(run(&padded)) {
        let error = ((packed - &padded).norm() / padded.norm()).double_value(&[]);
        assert!(error < 1e-5, "{error}");
    }
}

/// Rows that begin with the same 20 tokens.
fn prefixed_rows() -> Vec<Sequence> {
    let prefix: Vec<i64> = (0..20).map(|i| (i * 7) % 30).collect();
    let row = |row: Sequence| {
        let tokens = [&prefix[..], &row.tokens].concat();
        Sequence::new(tokens, prefix.len() + row.n_prompt())
    };
    rows(7, 2).into_iter().map(row).collect()
}

#[test]
fn a_prefix_computed_once_equals_rows_alone() {
    let rows = prefixed_rows();
    assert!(Batch::pack(&rows, Device::Cpu).bunches[0].prefix >= 20);
    let error = difference(Precision::F32, &rows);
    assert!(error < 1e-5, "{error}");
    let error = difference(Precision::F64, &rows);
    assert!(error < 1e-13, "{error}");
}

#[test]
fn a_prefix_computed_once_has_the_gradient_of_all_rows() {
    let model = model(Precision::F64);
    let rows = prefixed_rows();
    let packed = Batch::pack(&rows, Device::Cpu);
    let gradients = |batches: &[Batch]| -> Vec<Tensor> {
        let edits = parameters(&model, &packed);
        for batch in batches {
            let layers = edits.layer_changes(&edits.fixed_gates());
            let loss = cross_entropy(&model, batch, &layers) * batch.n_rows() as f64;
            loss.backward();
        }
        edits
            .halves
            .iter()
            .map(|half| half.vectors.grad())
            .collect()
    };
    let alone: Vec<Batch> = rows
        .iter()
        .map(|row| Batch::pack([row], Device::Cpu))
        .collect();
    for (together, alone) in gradients(&[Batch::pack(&rows, Device::Cpu)])
        .iter()
        .zip(gradients(&alone))
    {
        let error = ((together - &alone).norm() / alone.norm()).double_value(&[]);
        assert!(error < 1e-12, "{error}");
    }
}

/// bfloat16 keeps 8 bits; what is computed around the matrix products is float32.
#[test]
fn bf16_is_close_to_f32() {
    let logits = |precision| {
        let model = model(precision);
        let batch = Batch::pack(&rows(7, 2), Device::Cpu);
        no_grad(|| model.forward(&batch, &edits(&model, &batch)))
    };
    let (half, single) = (logits(Precision::BF16), logits(Precision::F32));
    assert_eq!(half.kind(), Kind::Float);
    let error = ((&half - &single).norm() / single.norm()).double_value(&[]);
    assert!(error < 0.03, "{error}");
}
