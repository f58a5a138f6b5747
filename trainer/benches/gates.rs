//! Hard-concrete gates of SmolLM2-135M (30 layers, 9 heads, scale and offset): what a training
//! step does with them.

use criterion::{criterion_group, criterion_main, Criterion};
use jola_trainer::method::gates;
use tch::{Device, Kind, Tensor};

const GATES: [i64; 2] = [30, 18];

fn benches(c: &mut Criterion) {
    tch::set_num_threads(1);
    let float = (Kind::Float, Device::Cpu);
    let log_alpha = Tensor::randn(GATES, float).set_requires_grad(true);
    let noise = Tensor::rand(GATES, float);
    let mut group = c.benchmark_group("gates");
    group.bench_function("sample", |b| {
        b.iter(|| tch::no_grad(|| gates::sample(&log_alpha, &noise)))
    });
    group.bench_function("deterministic", |b| {
        b.iter(|| tch::no_grad(|| gates::deterministic(&log_alpha)))
    });
    group.bench_function("sample and gradient", |b| {
        b.iter(|| {
            let sum = gates::sample(&log_alpha, &noise).sum(Kind::Float);
            Tensor::run_backward(&[sum], &[&log_alpha], false, false)
        })
    });
    group.bench_function("penalty and gradient", |b| {
        b.iter(|| {
            let sum = gates::open_probability(&log_alpha).sum(Kind::Float);
            Tensor::run_backward(&[sum], &[&log_alpha], false, false)
        })
    });
}

criterion_group!(hard_concrete, benches);
criterion_main!(hard_concrete);
