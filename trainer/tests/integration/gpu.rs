//! What a device computes, in each number format and way of holding weights, beside float32 on
//! the CPU: on SmolLM2-135M, on the device that JOLA_DEVICE names (`cpu`, which is the default,
//! or `cuda:0`). Each prints what it measured, for `scripts/gpu/check.sh`.

use std::path::PathBuf;

use jola_trainer::base;
use jola_trainer::method::{Edits, Init, Method};
use jola_trainer::model::{Batch, Devices, Model, Precision, Sequence};
use jola_trainer::train::backward;
use tch::{no_grad, Device, Kind, Tensor};

use testkit::Random;

fn device() -> Device {
    match std::env::var("JOLA_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok(name) => {
            let index = name
                .strip_prefix("cuda")
                .map(|rest| rest.trim_start_matches(':'));
            match index.map(|index| {
                if index.is_empty() {
                    Ok(0)
                } else {
                    index.parse()
                }
            }) {
                Some(Ok(index)) => Device::Cuda(index),
                _ => panic!("JOLA_DEVICE is {name}, expected cpu or cuda:N"),
            }
        }
    }
}

fn load(precision: Precision, devices: impl Into<Devices>) -> Model {
    tch::set_num_threads(1);
    let path = std::env::var_os("JOLA_TEST_MODEL").expect("scripts/env.sh sets JOLA_TEST_MODEL");
    let base = base::open(&PathBuf::from(path)).unwrap();
    Model::from_base(&*base, precision, devices).unwrap()
}

/// As a run on the device has it.
fn on(device: Device, precision: Precision) -> Precision {
    match device.is_cuda() {
        true => precision.fused(),
        false => precision,
    }
}

/// Rows of several lengths, with a beginning of their own or one that they share.
fn rows(shared: usize) -> Vec<Sequence> {
    let mut random = Random::new(7);
    let mut tokens =
        |n: usize| -> Vec<i64> { (0..n).map(|_| 20 + random.below(40_000) as i64).collect() };
    let start = tokens(shared);
    let row = |length: usize| [&start[..], &tokens(length)].concat();
    let rows = [9, 31, 17, 23].map(row);
    rows.into_iter()
        .map(|tokens| {
            let n = tokens.len() - 3;
            Sequence::new(tokens, n)
        })
        .collect()
}

fn edits(model: &Model, head_rms: &Tensor) -> Edits {
    let init = Init {
        vector_std: 0.3,
        ..Init::DEFAULT
    };
    let head_rms = head_rms.to_device(model.device());
    Edits::new(Method::Ungated, model.config.head_dim, &head_rms, init, 9)
}

/// Logits with an edit, and the edit's gradient.
fn logits_and_gradient(
    model: &Model,
    rows: &[Sequence],
    head_rms: &Tensor,
    recomputed: usize,
) -> [Tensor; 2] {
    let batch = Batch::pack(rows, model.device());
    let edits = edits(model, head_rms);
    let changes = edits.final_changes();
    let logits = no_grad(|| model.forward(&batch, &changes));
    let _ = backward(model, &batch, &changes, recomputed);
    let halves = edits.halves.iter();
    let gradients: Vec<Tensor> = halves
        .map(|half| half.vectors.grad().flatten(0, -1))
        .collect();
    [logits, Tensor::cat(&gradients, 0)]
        .map(|tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Double))
}

fn error(found: &Tensor, expected: &Tensor) -> f64 {
    ((found - expected).norm() / expected.norm()).double_value(&[])
}

/// The most that logits and gradients may differ from float32 on the CPU, of their norm. The
/// order of sums moves float32 by 1e-5 and less; bfloat16 keeps 8 bits of every operand, float16
/// 11, and errors of 30 layers add up.
const FORMATS: [(&str, Precision, [f64; 2]); 3] = [
    ("float32", Precision::F32, [1e-4, 1e-3]),
    ("bfloat16", Precision::BF16, [3e-2, 2e-1]),
    ("float16", Precision::F16, [5e-3, 3e-2]),
];

#[test]
fn every_format_computes_what_float32_on_the_cpu_does() {
    let device = device();
    for shared in [0, 12] {
        let rows = rows(shared);
        let reference = load(Precision::F32, Device::Cpu);
        let head_rms = reference.head_rms(&Batch::pack(&rows, Device::Cpu));
        let expected = logits_and_gradient(&reference, &rows, &head_rms, 0);
        drop(reference);
        for (name, precision, limits) in FORMATS {
            if device == Device::Cpu && precision == Precision::F16 {
                continue; // CPUs have no products in it
            }
            let dense = load(on(device, precision), device);
            let found = logits_and_gradient(&dense, &rows, &head_rms, 0);
            let n_layer = dense.config.n_layer;
            drop(dense);
            let blocks = load(on(device, precision).in_blocks(), device);
            let quantised = logits_and_gradient(&blocks, &rows, &head_rms, n_layer);
            for (i, what) in ["logits", "gradient"].into_iter().enumerate() {
                let from_cpu = error(&found[i], &expected[i]);
                let from_dense = error(&quantised[i], &found[i]);
                println!("gpu: {what}, {name}, shared beginning of {shared} = {from_cpu:.2e} of the norm from CPU float32");
                println!("gpu: {what}, {name}, shared beginning of {shared}, quantised weights = {from_dense:.2e} of the norm from dense");
                assert!(from_cpu < limits[i], "{what} in {name}: {from_cpu}");
                // The same numbers are multiplied; atomic sums on GPUs have no fixed order.
                assert!(
                    from_dense < 1e-5,
                    "{what} in {name}, quantised: {from_dense}"
                );
            }
        }
    }
}

/// Padding and one call for all sequences change nothing.
#[test]
fn attention_of_all_sequences_in_one_call_is_the_same() {
    for shared in [0, 12] {
        let rows = rows(shared);
        let mut model = load(Precision::F32, device());
        let head_rms = model.head_rms(&Batch::pack(&rows, model.device()));
        let [apart, together] = [false, true].map(|together| {
            model.together = together;
            logits_and_gradient(&model, &rows, &head_rms, 0)
        });
        for (found, expected) in together.iter().zip(&apart) {
            let error = error(found, expected);
            println!("gpu: one attention call for all, shared beginning of {shared} = {error:.2e} of the norm from one each");
            assert!(error < 1e-5, "{error}");
        }
    }
}

/// The lower half of the layers on the CPU, the upper half on the device.
#[test]
fn layers_on_two_devices_compute_what_one_does() {
    let rows = rows(12);
    let one = load(Precision::F32, Device::Cpu);
    let head_rms = one.head_rms(&Batch::pack(&rows, Device::Cpu));
    let expected = logits_and_gradient(&one, &rows, &head_rms, 0);
    drop(one);
    let two = load(
        Precision::F32,
        Devices::sharing(vec![(Device::Cpu, 1), (device(), 1)]),
    );
    for recomputed in [0, two.config.n_layer] {
        let found = logits_and_gradient(&two, &rows, &head_rms, recomputed);
        for (i, (found, limit)) in found.iter().zip([1e-4, 1e-3]).enumerate() {
            let (error, what) = (error(found, &expected[i]), ["logits", "gradient"][i]);
            println!(
                "gpu: {what}, half of the layers on the CPU, {recomputed} recomputed = {error:.2e} of the norm from all on it"
            );
            assert!(error < limit, "{what}: {error}");
        }
    }
}
