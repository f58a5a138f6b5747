//! Training in bfloat16: what is stored is rounded, what is learned is not lost by it.

use jola_trainer::method::{Edits, Init, Method};
use jola_trainer::model::{Batch, FeedForward, LayerChange, Model, Precision};
use jola_trainer::train::backward;
use tch::{no_grad, Device, Kind, Tensor};

use super::runs::{bytes, run_on, SETTINGS};
use super::support::{assert_learned, model, questions, rows};
use crate::decoder::{decoder, Shape};

#[test]
fn a_run_learns_and_writes_the_same_bytes_twice() {
    let model = model(Precision::BF16);
    let (trained, outcome, _) = run_on(&model, &SETTINGS, questions).unwrap();
    assert_learned(&outcome);
    let (again, ..) = run_on(&model, &SETTINGS, questions).unwrap();
    assert_eq!(bytes(&model, &trained), bytes(&model, &again));
}

#[test]
fn the_gradient_points_where_that_of_float32_does() {
    let exact = model(Precision::F32);
    let batch = Batch::pack(&rows(12, 1), Device::Cpu);
    let head_rms = exact.head_rms(&batch);
    let init = Init {
        vector_std: 0.3,
        ..Init::DEFAULT
    };
    let gradient = |model: &Model, recomputed: usize| {
        let edits = Edits::new(Method::Ungated, 16, &head_rms, init, 9);
        let _ = backward(model, &batch, &edits.final_changes(), recomputed);
        let halves = edits.halves.iter();
        let all: Vec<Tensor> = halves
            .map(|half| half.vectors.grad().flatten(0, -1))
            .collect();
        Tensor::cat(&all, 0).to_kind(Kind::Double)
    };
    let expected = gradient(&exact, 0);
    for recomputed in [0, 2] {
        for precision in [Precision::BF16, Precision::F16] {
            let found = gradient(&model(precision), recomputed);
            let norms = found.norm() * expected.norm();
            let cosine = (found.dot(&expected) / norms).double_value(&[]);
            let name = precision.name();
            println!("{name}, {recomputed} layers computed twice: cosine {cosine:.5}");
            assert!(cosine > 0.99, "{name}, {recomputed}: {cosine}");
        }
    }
}

/// Differences that bfloat16 cannot hold must reach the loss.
#[test]
fn logits_are_not_rounded() {
    let model = model(Precision::BF16);
    let batch = Batch::pack(&rows(7, 2), Device::Cpu);
    let none = LayerChange::none(model.config.n_layer);
    let logits = no_grad(|| model.forward(&batch, &none));
    let rounded = logits.to_kind(Kind::BFloat16).to_kind(Kind::Float);
    let kept = logits
        .ne_tensor(&rounded)
        .to_kind(Kind::Float)
        .mean(Kind::Float);
    assert!(kept.double_value(&[]) > 0.9, "{kept:?}");
}

#[test]
fn routers_keep_the_numbers_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = decoder("qwen3moe", Shape::GQA, 3).write(folder.path(), "tiny");
    let routers = |precision| -> Vec<Tensor> {
        let model = Model::load(&path, precision, Device::Cpu).unwrap();
        let router = |ffn| match ffn {
            FeedForward::Experts { router, .. } => router,
            FeedForward::Dense { .. } => panic!("no experts"),
        };
        let layers = model.layers.into_iter();
        layers.map(|layer| router(layer.ffn)).collect()
    };
    for (found, expected) in routers(Precision::BF16).iter().zip(routers(Precision::F32)) {
        assert_eq!(found.kind(), Kind::Float);
        assert!(found.equal(&expected));
    }
}
