//! Sequences packed into one batch are computed as if each were alone.

use jola_trainer::batch::{Batch, Sequence};
use jola_trainer::edits::{Edits, Init, LayerEdit, Method};
use jola_trainer::model::{Model, Precision};
use tch::{no_grad, Device, Kind, Tensor};

use crate::support::{model, rows};

fn edits(model: &Model, batch: &Batch) -> Vec<LayerEdit> {
    let init = Init {
        vector_std: 0.3,
        log_alpha: 2.0,
    };
    let edits = Edits::new(Method::Jola, 16, &model.head_rms(batch), init, 9);
    edits.layer_edits(&edits.fixed_gates())
}

fn difference(precision: Precision) -> f64 {
    let model = model(precision);
    let rows = rows(7, 2);
    let packed = Batch::pack(&rows, Device::Cpu);
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
    let error = difference(Precision::F32);
    assert!(error < 1e-5, "{error}");
    let error = difference(Precision::F64);
    assert!(error < 1e-13, "{error}");
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
