//! Logits of llama.cpp and of the trainer's reference model, side by side.

use std::collections::BTreeMap;
use std::path::Path;

use jola_edit::gguf::{Gguf, Splits};
use jola_edit::{BaseShape, EditSet, HeadVectors, LayerEdit as SidecarLayer};
use jola_trainer::method::export;
use jola_trainer::model::{Batch, LayerChange, Model, Precision};
use llama_jola::{CacheType, Context, ContextParams, FlashAttention, ModelParams};
use tch::{no_grad, Device, Tensor};
use tempfile::TempDir;

use testkit::logits::relative_error;
use testkit::tiny::{Tiny, VOCABULARY};
use testkit::Random;

/// Most that the two may differ, relative to the norm of llama.cpp's logits.
pub const TOLERANCE: f64 = 1e-3;
/// Tokens per comparison.
pub const LENGTH: usize = 48;

/// Context of llama.cpp in these tests, in tokens.
pub const CONTEXT: u32 = 256;

/// Random tokens.
pub fn tokens(seed: u64) -> Vec<i64> {
    let mut random = Random::new(seed);
    (0..LENGTH)
        .map(|_| random.below(VOCABULARY) as i64)
        .collect()
}

/// An edit of every head of every layer, and what composing it gives.
pub fn random_edits(gguf: &Gguf, seed: u64) -> EditSet {
    let shape = BaseShape::from_gguf(gguf).unwrap();
    let mut random = Random::new(seed);
    let mut vectors = |heads: u32| HeadVectors {
        heads: (0..heads).collect(),
        values: (0..heads * shape.head_dim)
            .map(|_| 0.3 * random.normal())
            .collect(),
    };
    let layers: BTreeMap<u32, SidecarLayer> = (0u32..)
        .zip(&shape.head_count)
        .filter(|(_, heads)| **heads > 0)
        .map(|(layer, &heads)| {
            let (mul, add) = (Some(vectors(heads)), Some(vectors(heads)));
            (layer, SidecarLayer { mul, add })
        })
        .collect();
    let sidecar = shape.sidecar("jola", layers);
    sidecar.check_base(&shape).unwrap();
    EditSet::compose(&[(&sidecar, 1.0)]).unwrap()
}

/// Parameters of a context that keeps float32 throughout.
pub fn params() -> ContextParams {
    ContextParams {
        n_ctx: CONTEXT,
        n_threads: 2,
        type_k: CacheType::F32,
        type_v: CacheType::F32,
        flash_attention: FlashAttention::Off,
        ..ContextParams::default()
    }
}

/// llama.cpp's logits [LENGTH, V] without and with `edits`.
fn llama_logits(path: &Path, tokens: &[i64], edits: &EditSet) -> [Vec<f32>; 2] {
    let model = llama_jola::Model::load(path, &ModelParams::default()).unwrap();
    let mut context = Context::new(&model, &params()).unwrap();
    let tokens: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
    let plain = context.logits_of(&tokens).unwrap();
    context.set_edits(edits).unwrap();
    [plain, context.logits_of(&tokens).unwrap()]
}

/// Asserts that `a` and `b` have the same best token in every row, or tokens that `b` holds
/// for equal within the tolerance.
fn assert_same_best(a: &[f32], b: &[f32], what: &str) {
    let best = |row: &[f32]| {
        (0..row.len())
            .max_by(|i, j| row[*i].total_cmp(&row[*j]))
            .unwrap()
    };
    for (i, (a, b)) in a.chunks(VOCABULARY).zip(b.chunks(VOCABULARY)).enumerate() {
        let norm = b.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let gap = f64::from(b[best(b)] - b[best(a)]);
        assert!(
            gap <= TOLERANCE * norm,
            "{what}: other best token in row {i}"
        );
    }
}

/// One model seen by both sides.
pub struct Pair {
    tokens: Vec<i64>,
    edits: EditSet,
    llama: [Vec<f32>; 2],
    base: Splits,
    _folder: TempDir,
}

impl Pair {
    /// Computes llama.cpp's side.
    pub fn new(tiny: &Tiny) -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let path = tiny.write(folder.path(), "tiny");
        let base = Splits::open(&path).unwrap();
        let (tokens, edits) = (tokens(11), random_edits(base.first(), 12));
        let llama = llama_logits(&path, &tokens, &edits);
        Pair {
            tokens,
            edits,
            llama,
            base,
            _folder: folder,
        }
    }

    /// How much the edits change llama.cpp's logits.
    fn effect(&self) -> f64 {
        relative_error(&self.llama[1], &self.llama[0])
    }

    /// The reference model, loaded anew.
    pub fn model(&self) -> Model {
        let mut model = Model::from_base(&self.base, Precision::F32, Device::Cpu).unwrap();
        model.frequencies.served_context = CONTEXT as usize;
        model
    }

    /// The logits of `model` without and with edits.
    fn reference(&self, model: &Model) -> [Vec<f32>; 2] {
        let n_layer = model.config.n_layer;
        let math = Precision::F32.math;
        let edits = export::from_edit_set(&self.edits, n_layer, math, Device::Cpu);
        let none = LayerChange::none(n_layer);
        let batch = Batch::all_rows(&self.tokens, Device::Cpu);
        [&none, &edits].map(|edits| {
            let logits: Tensor = no_grad(|| model.forward(&batch, edits));
            Vec::<f32>::try_from(logits.flatten(0, -1)).unwrap()
        })
    }

    /// Distances of `model` from llama.cpp, without and with edits.
    pub fn errors(&self, model: &Model) -> [f64; 2] {
        let reference = self.reference(model);
        [0, 1].map(|i| relative_error(&reference[i], &self.llama[i]))
    }

    /// Asserts that both sides agree and that the comparison means something.
    pub fn assert_equal(&self, what: &str) {
        let model = self.model();
        let [plain, edited] = self.errors(&model);
        let effect = self.effect();
        println!("{what:44} plain {plain:.1e}, edited {edited:.1e}, effect {effect:.2}");
        assert!(plain < TOLERANCE, "{what}: {plain}");
        assert!(edited < TOLERANCE, "{what}, edited: {edited}");
        assert!(effect > 0.05, "{what}: edits without effect");
        for (reference, llama) in self.reference(&model).iter().zip(&self.llama) {
            assert_same_best(reference, llama, what);
        }
    }
}
