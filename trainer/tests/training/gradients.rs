//! Gradients of the edits through the whole model, in float64.

use jola_trainer::batch::Batch;
use jola_trainer::edits::{Edits, Init, Method};
use jola_trainer::model::{Model, Precision};
use jola_trainer::train::cross_entropy;
use tch::{no_grad, Device, Tensor};

use crate::support::{model, rows};

const STEP: f64 = 1e-5;
const INIT: Init = Init {
    vector_std: 0.3,
    log_alpha: 0.3,
};

fn loss(model: &Model, edits: &Edits, batch: &Batch) -> Tensor {
    let gates = edits.sample_gates(3, 7);
    cross_entropy(model, batch, &edits.layer_edits(&gates))
}

/// Moves one number of a tensor.
fn add(tensor: &Tensor, index: i64, delta: f64) {
    no_grad(|| {
        let mut number = tensor.view(-1).get(index);
        number += delta;
    });
}

#[test]
fn match_central_differences() {
    let model = model(Precision::F64);
    let batch = Batch::pack(&rows(3, 1), Device::Cpu);
    let edits = Edits::new(Method::Jola, 16, &model.head_rms(&batch), INIT, 3);
    loss(&model, &edits, &batch).backward();
    let value = || no_grad(|| loss(&model, &edits, &batch).double_value(&[]));
    let mut not_zero = 0;
    for half in &edits.halves {
        for (tensor, stride) in [(&half.vectors, 7), (&half.log_alpha, 1)] {
            let gradient = Vec::<f64>::try_from(tensor.grad().flatten(0, -1)).unwrap();
            for index in (0..gradient.len()).step_by(stride) {
                add(tensor, index as i64, STEP);
                let above = value();
                add(tensor, index as i64, -2.0 * STEP);
                let below = value();
                add(tensor, index as i64, STEP);
                let difference = (above - below) / (2.0 * STEP);
                let error = (gradient[index] - difference).abs();
                assert!(
                    error < 1e-8 + 1e-5 * difference.abs(),
                    "{} {difference}",
                    gradient[index]
                );
                not_zero += usize::from(difference.abs() > 1e-6);
            }
        }
    }
    assert!(not_zero > 30, "only {not_zero} numbers have a gradient");
}

#[test]
fn stay_inside_the_edits() {
    let model = model(Precision::F32);
    let batch = Batch::pack(&rows(2, 1), Device::Cpu);
    let edits = Edits::new(Method::Jola, 16, &model.head_rms(&batch), INIT, 3);
    loss(&model, &edits, &batch).backward();
    assert!(!model.token_embd.requires_grad() && !model.output.weight.requires_grad());
    assert!(model
        .layers
        .iter()
        .all(|layer| !layer.attn_output.weight.requires_grad()));
}
