//! Logits of llama.cpp and of the trainer's reference model, side by side.

use std::collections::BTreeMap;
use std::path::Path;

use jola_edit::gguf::{Gguf, Metadata};
use jola_edit::{BaseShape, EditSet, HeadVectors, LayerEdit as SidecarLayer, Sidecar};
use jola_trainer::batch::Batch;
use jola_trainer::edits::LayerEdit;
use jola_trainer::export;
use jola_trainer::model::{Model, Precision};
use llama_jola::{CacheType, Context, ContextParams, FlashAttention, ModelParams};
use tch::{no_grad, Device, Tensor};

use crate::tiny::{Random, VOCABULARY};

/// Most that the two may differ, relative to the norm of llama.cpp's logits.
pub const TOLERANCE: f64 = 1e-3;
/// Tokens per comparison.
pub const LENGTH: usize = 48;

/// Random tokens.
pub fn tokens(seed: u64) -> Vec<i64> {
    let mut random = Random::new(seed);
    (0..LENGTH).map(|_| random.below(VOCABULARY) as i64).collect()
}

/// An edit of every head of every layer, and what composing it gives.
pub fn random_edits(gguf: &Gguf, seed: u64) -> EditSet {
    let shape = BaseShape::from_gguf(gguf).unwrap();
    let mut random = Random::new(seed);
    let mut vectors = |heads: u32| HeadVectors {
        heads: (0..heads).collect(),
        values: (0..heads * shape.head_dim).map(|_| 0.3 * random.normal()).collect(),
    };
    let layers: BTreeMap<u32, SidecarLayer> = (0u32..)
        .zip(&shape.head_count)
        .filter(|(_, heads)| **heads > 0)
        .map(|(layer, &heads)| {
            let (mul, add) = (Some(vectors(heads)), Some(vectors(heads)));
            (layer, SidecarLayer { mul, add })
        })
        .collect();
    let sidecar = Sidecar {
        architecture: shape.architecture.clone(),
        name: String::new(),
        base_model_name: String::new(),
        block_count: shape.block_count,
        head_count: shape.to_head_count(),
        head_dim: shape.head_dim,
        method: "jola".to_owned(),
        base_sha256: None,
        train: Metadata::new(),
        layers,
        warnings: Vec::new(),
    };
    sidecar.check_base(&shape).unwrap();
    EditSet::compose(&[(&sidecar, 1.0)]).unwrap()
}

/// Parameters of a context that keeps float32 throughout.
pub fn params(n_ctx: u32) -> ContextParams {
    ContextParams {
        n_ctx,
        n_threads: 2,
        type_k: CacheType::F32,
        type_v: CacheType::F32,
        flash_attention: FlashAttention::Off,
        ..ContextParams::default()
    }
}

/// llama.cpp's logits [LENGTH, V] without and with `edits`.
pub fn llama_logits(path: &Path, tokens: &[i64], edits: &EditSet, n_ctx: u32) -> [Vec<f32>; 2] {
    let model = llama_jola::Model::load(path, &ModelParams::default()).unwrap();
    let mut context = Context::new(&model, &params(n_ctx)).unwrap();
    let tokens: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
    let plain = context.logits_of(&tokens).unwrap();
    context.set_edits(edits).unwrap();
    [plain, context.logits_of(&tokens).unwrap()]
}

/// The reference model's logits [LENGTH, V].
pub fn reference_logits(model: &Model, tokens: &[i64], edits: &[LayerEdit]) -> Vec<f32> {
    let batch = Batch::all_rows(tokens, Device::Cpu);
    let logits: Tensor = no_grad(|| model.forward(&batch, edits));
    Vec::<f32>::try_from(logits.flatten(0, -1)).unwrap()
}

/// ‖a − b‖ / ‖b‖
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b)))
}

/// The best token of each row.
pub fn best(logits: &[f32]) -> Vec<usize> {
    let row = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    logits.chunks(VOCABULARY).map(row).collect()
}

/// One model seen by both sides.
pub struct Pair {
    tokens: Vec<i64>,
    edits: EditSet,
    llama: [Vec<f32>; 2],
    /// The reference model; a test may damage it.
    pub model: Model,
}

/// Relative errors without and with edits.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    /// Without.
    pub plain: f64,
    /// With.
    pub edited: f64,
}

impl Pair {
    /// Loads the file at `path` on both sides, llama.cpp's with a context of `n_ctx`.
    pub fn load(path: &Path, seed: u64, n_ctx: u32) -> Pair {
        let gguf = Gguf::open(path).unwrap();
        let (tokens, edits) = (tokens(seed), random_edits(&gguf, seed + 1));
        let llama = llama_logits(path, &tokens, &edits, n_ctx);
        let model = Model::from_gguf(&gguf, Precision::F32, Device::Cpu).unwrap();
        Pair { tokens, edits, llama, model }
    }

    /// How much the edits change llama.cpp's logits.
    pub fn effect(&self) -> f64 {
        distance(&self.llama[1], &self.llama[0])
    }

    fn reference(&self) -> [Vec<f32>; 2] {
        let n_layer = self.model.config.n_layer;
        let math = Precision::F32.math;
        let edits = export::from_edit_set(&self.edits, n_layer, math, Device::Cpu);
        let none = LayerEdit::none(n_layer);
        [&none, &edits].map(|edits| reference_logits(&self.model, &self.tokens, edits))
    }

    /// How far the reference model is from llama.cpp.
    pub fn errors(&self) -> Errors {
        let [plain, edited] = self.reference();
        Errors {
            plain: distance(&plain, &self.llama[0]),
            edited: distance(&edited, &self.llama[1]),
        }
    }

    /// Asserts that both sides agree and that the comparison means something.
    pub fn assert_equal(&self, what: &str) {
        let Errors { plain, edited } = self.errors();
        println!("{what:40} plain {plain:.1e}, edited {edited:.1e}, effect {:.2}", self.effect());
        assert!(plain < TOLERANCE, "{what}: {plain}");
        assert!(edited < TOLERANCE, "{what}, edited: {edited}");
        assert!(self.effect() > 0.05, "{what}: edits without effect");
        for (reference, llama) in self.reference().iter().zip(&self.llama) {
            assert_eq!(best(reference), best(llama), "{what}");
        }
    }
}
