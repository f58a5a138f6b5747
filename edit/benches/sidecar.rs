//! Reading, writing and composing sidecars: the largest that SmolLM2-135M can have, and one
//! as sparse as training leaves it.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{criterion_group, criterion_main, Criterion};
use jola_edit::gguf::Metadata;
use jola_edit::sidecar::HeadCount;
use jola_edit::{EditSet, HeadVectors, LayerEdit, Sidecar};

const LAYERS: u32 = 30;
const HEADS: u32 = 9;
const HEAD_DIM: u32 = 64;

/// Scale and offset of every `step`th head.
fn sidecar(step: usize) -> Sidecar {
    let all = (0..LAYERS * HEADS).step_by(step);
    let mut layers: BTreeMap<u32, LayerEdit> = BTreeMap::new();
    for head in all {
        let edit = layers.entry(head / HEADS).or_default();
        for half in [&mut edit.mul, &mut edit.add] {
            let vectors = half.get_or_insert_with(|| HeadVectors {
                heads: Vec::new(),
                values: Vec::new(),
            });
            vectors.heads.push(head % HEADS);
            let values = (1..=HEAD_DIM).map(|i| 1.0 / i as f32);
            vectors.values.extend(values);
        }
    }
    Sidecar {
        architecture: "llama".into(),
        name: "bench".into(),
        base_model_name: "SmolLM2 135M Instruct".into(),
        block_count: LAYERS,
        head_count: HeadCount::Uniform(HEADS),
        head_dim: HEAD_DIM,
        method: "jola".into(),
        base_sha256: None,
        train: Metadata::new(),
        layers,
        warnings: Vec::new(),
    }
}

fn benches(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, step) in [("every head", 1), ("every tenth head", 10)] {
        let sidecar = sidecar(step);
        let path = folder.path().join("edit.gguf");
        sidecar.write(&path).expect("a valid sidecar");
        let mut group = c.benchmark_group(name);
        group.bench_function("read", |b| b.iter(|| Sidecar::read(&path).unwrap()));
        let out = folder.path().join("out.gguf");
        group.bench_function("write", |b| b.iter(|| sidecar.write(&out).unwrap()));
        let compose = || EditSet::compose(black_box(&[(&sidecar, 0.5)])).unwrap();
        group.bench_function("compose", |b| b.iter(compose));
    }
}

criterion_group!(sidecar_files, benches);
criterion_main!(sidecar_files);
