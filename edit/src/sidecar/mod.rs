//! The sidecar: a JoLA edit as a file that lies beside its base model.
//!
//! `docs/reference/sidecar-format.md` states the bytes; this module is the only reader and writer of
//! them. Everything is checked: a sidecar that [`Sidecar::read`] returns or
//! [`Sidecar::write`] accepts obeys every rule of [`Sidecar::validate`], so code that applies
//! edits needs no checks of its own.

mod base;
mod error;
mod naming;
mod read;
mod stats;
#[cfg(test)]
pub(crate) mod tests;
mod training;
mod validate;
mod weights;
mod write;

use std::collections::BTreeMap;

pub use base::{BaseMismatch, BaseShape};
pub use error::{SidecarError, SidecarErrorKind};
pub use naming::{file_name, sha256, text_sha256};
pub use stats::{HeadNorms, SidecarStats, SidecarSummary};
pub use training::{Doubt, RowFormat, Training};
pub use weights::{is_norm, norms_sha256, BaseWeights};

use crate::gguf::Metadata;

/// The format version that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;
/// What `general.type` says in a sidecar.
pub const GENERAL_TYPE: &str = "adapter";
/// What `adapter.type` says in a sidecar.
pub const ADAPTER_TYPE: &str = "jola";
/// Most layers of a base model.
pub const MAX_BLOCK_COUNT: u32 = 4096;
/// Most values in one layer's concatenated head outputs, heads times head width.
pub const MAX_ROW_LEN: u64 = 1 << 20;
/// Most values in the concatenated head outputs of all layers together. The edit of a model is
/// composed to rows of that many values, however few heads a file names: without this limit a
/// file of a megabyte could ask for 64 GiB. Llama 3.1 405B has 2 064 384.
pub const MAX_MODEL_LEN: u64 = 1 << 24;

/// A JoLA edit: for some heads of some layers a scale, an offset or both.
///
/// With a user's strength `s`, a head's output `z` becomes `(1 + s·mul) ⊙ z + s·add`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecar {
    /// `general.architecture` of the base model, as `llama`.
    pub architecture: String,
    /// Free text: what this edit is.
    pub name: String,
    /// Free text: which model it was trained on.
    pub base_model_name: String,
    /// Layers of the base model, 1 to [`MAX_BLOCK_COUNT`].
    pub block_count: u32,
    /// Query heads of the base model.
    pub head_count: HeadCount,
    /// Width of one head's output (its value length); times the head count at most
    /// [`MAX_ROW_LEN`], times the heads of all layers at most [`MAX_MODEL_LEN`].
    pub head_dim: u32,
    /// How it was trained: `jola`, `lofit`, …
    pub method: String,
    /// SHA-256 of the base model's file, 64 lowercase hexadecimal digits. Advisory: another
    /// quantisation of the same model may load the edit.
    pub base_sha256: Option<String>,
    /// Provenance: the `jola.train.*` entries, keys without that prefix, in file order.
    pub train: Metadata,
    /// The edited layers, counted from 0.
    pub layers: BTreeMap<u32, LayerEdit>,
    /// What the reader ignored, as texts for the user; not written.
    pub warnings: Vec<String>,
}

/// Query heads per layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadCount {
    /// All layers have this many.
    Uniform(u32),
    /// One count for each layer; 0 for a layer without attention.
    PerLayer(Vec<u32>),
}

impl HeadCount {
    /// Heads of a layer, `None` if an array has no such layer.
    pub fn at(&self, layer: u32) -> Option<u32> {
        match self {
            Self::Uniform(count) => Some(*count),
            Self::PerLayer(counts) => counts.get(layer as usize).copied(),
        }
    }

    /// The largest count of any layer.
    fn max(&self) -> u32 {
        match self {
            Self::Uniform(count) => *count,
            Self::PerLayer(counts) => counts.iter().copied().max().unwrap_or(0),
        }
    }

    /// The heads of all layers of a model with `block_count` of them.
    fn total(&self, block_count: u32) -> u64 {
        match self {
            Self::Uniform(count) => u64::from(*count) * u64::from(block_count),
            Self::PerLayer(counts) => counts.iter().map(|count| u64::from(*count)).sum(),
        }
    }
}

/// The edits of one layer; at least one of the two is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerEdit {
    /// Effective scales `g_m·m`, as differences from a factor of 1.
    pub mul: Option<HeadVectors>,
    /// Effective offsets `g_a·a`.
    pub add: Option<HeadVectors>,
}

impl LayerEdit {
    /// The vectors that are there, each with what it does: scale before offset.
    fn operations(&self) -> impl Iterator<Item = (Operation, &HeadVectors)> {
        let mul = self.mul.as_ref().map(|vectors| (Operation::Mul, vectors));
        let add = self.add.as_ref().map(|vectors| (Operation::Add, vectors));
        mul.into_iter().chain(add)
    }
}

/// One vector for each of `k` heads.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadVectors {
    /// Which heads, ascending, without duplicates: `k` of them, at least one.
    pub heads: Vec<u32>,
    /// The vectors, row-major `[k][head_dim]`, all finite; in GGUF's order
    /// `[head_dim, k]`.
    pub values: Vec<f32>,
}

impl HeadVectors {
    /// Each head with its vector of `head_dim` values.
    pub fn iter(&self, head_dim: u32) -> impl Iterator<Item = (u32, &[f32])> {
        let rows = self.values.chunks_exact((head_dim as usize).max(1));
        self.heads.iter().copied().zip(rows)
    }
}

/// What vectors do to head outputs, which decides their tensors' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Mul,
    Add,
}

impl Operation {
    /// Name of the tensor with the vectors, F32 `[head_dim, k]`.
    fn vectors_name(self, layer: u32) -> String {
        let role = match self {
            Self::Mul => "jola_mul",
            Self::Add => "jola_add",
        };
        format!("blk.{layer}.attn_output.{role}")
    }

    /// Name of the tensor with the head numbers, I32 `[k]`.
    fn heads_name(self, layer: u32) -> String {
        self.vectors_name(layer) + "_heads"
    }
}

/// Metadata keys of the format.
mod keys {
    pub const GENERAL_TYPE: &str = "general.type";
    pub const ARCHITECTURE: &str = "general.architecture";
    pub const NAME: &str = "general.name";
    pub const BASE_MODEL_NAME: &str = "general.base_model.0.name";
    pub const ADAPTER_TYPE: &str = "adapter.type";
    pub const FORMAT_VERSION: &str = "jola.format_version";
    pub const BLOCK_COUNT: &str = "jola.block_count";
    pub const HEAD_COUNT: &str = "jola.head_count";
    pub const HEAD_DIM: &str = "jola.head_dim";
    pub const METHOD: &str = "jola.method";
    pub const BASE_SHA256: &str = "jola.base.sha256";
    pub const JOLA_PREFIX: &str = "jola.";
    pub const TRAIN_PREFIX: &str = "jola.train.";

    /// The keys under `jola.` with a meaning of their own.
    pub const KNOWN_JOLA: [&str; 6] = [
        FORMAT_VERSION,
        BLOCK_COUNT,
        HEAD_COUNT,
        HEAD_DIM,
        METHOD,
        BASE_SHA256,
    ];
}
