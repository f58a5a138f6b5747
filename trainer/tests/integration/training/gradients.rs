//! Gradients of the edits through the whole model, in float64.

use jola_trainer::method::{Edits, Init, Lora, LoraConfig, Method};
use jola_trainer::model::{Batch, Devices, LayerChange, Model, Precision};
use jola_trainer::train::{backward, cross_entropy};
use tch::{no_grad, Device, Tensor};

use super::support::{model, rows, write_model};

const STEP: f64 = 1e-5;
const INIT: Init = Init {
    vector_std: 0.3,
    log_alpha: 0.3,
    ..Init::DEFAULT
};

fn loss(model: &Model, edits: &Edits, batch: &Batch) -> Tensor {
    let gates = edits.sample_gates(3, 7);
    cross_entropy(model, batch, &edits.layer_changes(&gates))
}

/// Moves one number of a tensor.
fn add(tensor: &Tensor, index: i64, delta: f64) {
    no_grad(|| {
        let mut number = tensor.view(-1).get(index);
        number += delta;
    });
}

/// A gate's worth is what weakening the head's edit costs, by central differences.
#[test]
fn worth_is_what_the_loss_would_rise_by_to_first_order() {
    let model = model(Precision::F64);
    let batch = Batch::pack(&rows(3, 1), Device::Cpu);
    for method in [Method::Jola, Method::SharedGate] {
        let edits = Edits::new(method, 16, &model.head_rms(&batch), INIT, 3);
        let loss = || cross_entropy(&model, &batch, &edits.training_changes(None));
        loss().backward();
        let shared = edits.log_alphas().len() == 1;
        let head = |half: usize, index: i64| edits.halves[half].vectors.flatten(0, 1).get(index);
        let weaken = |kind: usize, index: i64, by: f64| {
            no_grad(|| {
                for half in 0..2 {
                    if shared || half == kind {
                        let _ = head(half, index).g_mul_scalar_(1.0 - by);
                    }
                }
                loss().double_value(&[])
            })
        };
        for (kind, worth) in edits.worth().iter().enumerate() {
            for (index, worth) in (0..).zip(Vec::<f64>::try_from(worth.flatten(0, -1)).unwrap()) {
                let weaker = weaken(kind, index, STEP);
                let stronger = weaken(kind, index, 1.0 - (1.0 + STEP) / (1.0 - STEP));
                weaken(kind, index, 1.0 - 1.0 / (1.0 + STEP));
                let difference = (weaker - stronger) / (2.0 * STEP);
                assert!(
                    (worth - difference).abs() < 1e-8 + 1e-5 * difference.abs(),
                    "{worth} {difference}"
                );
            }
        }
    }
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
    assert!(
        !model.token_embd.dense().requires_grad()
            && model
                .output
                .matrix
                .as_ref()
                .is_none_or(|m| !m.dense().requires_grad())
    );
    assert!(model
        .layers
        .iter()
        .all(|layer| !layer.attn_output.weight.dense().requires_grad()));
}

#[test]
fn computed_again_are_the_same() {
    let model = model(Precision::F64);
    let batch = Batch::pack(&rows(3, 1), Device::Cpu);
    let n_layer = model.layers.len();
    let gradients = |again: usize| -> (f64, Vec<Tensor>) {
        let edits = Edits::new(Method::Jola, 16, &model.head_rms(&batch), INIT, 3);
        let mut layers = edits.layer_changes(&edits.sample_gates(3, 7));
        layers[0] = LayerChange::default(); // the lowest layer has no edit
        let loss = backward(&model, &batch, &layers, again).task;
        let parameters = edits.halves.iter();
        let grads = parameters.flat_map(|half| [half.vectors.grad(), half.log_alpha.grad()]);
        (loss.double_value(&[]), grads.collect())
    };
    let (loss, expected) = gradients(0);
    for again in 1..=n_layer {
        let (same_loss, found) = gradients(again);
        assert!(
            (same_loss - loss).abs() < 1e-12,
            "{again}: {same_loss} {loss}"
        );
        for (found, expected) in found.iter().zip(&expected) {
            let error = ((found - expected).norm() / expected.norm()).double_value(&[]);
            assert!(error < 1e-12, "{again} layers: {error}");
        }
    }
}

#[test]
fn of_low_rank_changes_computed_again_are_the_same() {
    let model = model(Precision::F64);
    let batch = Batch::pack(&rows(3, 1), Device::Cpu);
    let config = LoraConfig {
        rank: 2,
        alpha: 4.0,
        targets: ["attn_q", "attn_output", "ffn_down"]
            .map(String::from)
            .to_vec(),
    };
    let gradients = |again: usize| -> Vec<Tensor> {
        let lora = Lora::new(config.clone(), &model, 5).unwrap();
        let _ = backward(&model, &batch, &lora.layer_changes(), again);
        // B is zero at first, and so is the gradient of A.
        lora.targets.iter().map(|target| target.b.grad()).collect()
    };
    for (found, expected) in gradients(model.layers.len()).iter().zip(gradients(0)) {
        let error = ((found - &expected).norm() / expected.norm()).double_value(&[]);
        assert!(error < 1e-12, "{error}");
    }
}

/// With the CPU in the place of both devices: the parts of a model that is split are put together
/// and gone through as the whole is.
#[test]
fn of_a_model_on_two_devices_are_those_of_one() {
    let rows = rows(3, 1);
    let found = [1, 2].map(|n_device| {
        let folder = tempfile::tempdir().unwrap();
        let base = jola_trainer::base::open(&write_model(folder.path())).unwrap();
        let devices = Devices::sharing(vec![(Device::Cpu, 1); n_device]);
        let model = Model::from_base(&*base, Precision::F32, devices).unwrap();
        let batch = Batch::pack(&rows, Device::Cpu);
        [0, 1, 2].map(|again| {
            let edits = Edits::new(Method::Jola, 16, &model.head_rms(&batch), INIT, 3);
            let layers = edits.layer_changes(&edits.sample_gates(3, 7));
            let loss = backward(&model, &batch, &layers, again)
                .task
                .double_value(&[]);
            let gradient = edits.halves[0].vectors.grad().flatten(0, -1);
            (
                loss,
                Vec::<f64>::try_from(gradient.to_kind(tch::Kind::Double)).unwrap(),
            )
        })
    });
    assert_eq!(found[0], found[1]);
}
