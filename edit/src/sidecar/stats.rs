//! Numbers about a sidecar for people who look at it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{HeadVectors, Sidecar};
use crate::gguf::Metadata;

/// How much of the base model a sidecar edits, and how strongly.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SidecarStats {
    /// Layers of the base model.
    pub layers: u32,
    /// Layers with an edit.
    pub edited_layers: usize,
    /// Heads of the base model, over all layers.
    pub heads: u64,
    /// Heads with an edit; one with scale and offset counts once.
    pub edited_heads: usize,
    /// Heads with a scale: open multiplicative gates.
    pub open_mul: usize,
    /// Heads with an offset: open additive gates.
    pub open_add: usize,
    /// Numbers that the file stores for its edits: open gates times head width.
    pub values: u64,
    /// Numbers that an edit of every head would store: 2 times heads times head width.
    pub full_values: u64,
    /// Every edited head, by layer, then head.
    pub norms: Vec<HeadNorms>,
}

/// L2 norms of one head's edit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadNorms {
    /// Layer, counted from 0.
    pub layer: u32,
    /// Head, counted from 0.
    pub head: u32,
    /// Norm of the scale vector, if there is one.
    pub mul: Option<f64>,
    /// Norm of the offset vector, if there is one.
    pub add: Option<f64>,
}

/// A sidecar as one object for programs, such as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // the fields of Sidecar and SidecarStats under their published names
pub struct SidecarSummary<'a> {
    pub architecture: &'a str,
    pub name: &'a str,
    pub base_model: &'a str,
    pub base_sha256: Option<&'a str>,
    /// Whether a base model at hand is the very file that the edit was trained on.
    pub base_is_training_file: Option<bool>,
    pub method: &'a str,
    /// Size of the file.
    pub bytes: u64,
    pub layers_total: u32,
    pub layers_edited: usize,
    pub heads_total: u64,
    pub heads_edited: usize,
    pub head_dim: u32,
    pub scale_gates_open: usize,
    pub offset_gates_open: usize,
    pub values: u64,
    pub heads: Vec<HeadNorms>,
    pub train: &'a Metadata,
}

impl Sidecar {
    /// All about a valid sidecar whose file has `bytes` bytes; `base_is_training_file` as in
    /// [`SidecarSummary`].
    pub fn summary(&self, bytes: u64, base_is_training_file: Option<bool>) -> SidecarSummary<'_> {
        let stats = self.stats();
        SidecarSummary {
            architecture: &self.architecture,
            name: &self.name,
            base_model: &self.base_model_name,
            base_sha256: self.base_sha256.as_deref(),
            base_is_training_file,
            method: &self.method,
            bytes,
            layers_total: stats.layers,
            layers_edited: stats.edited_layers,
            heads_total: stats.heads,
            heads_edited: stats.edited_heads,
            head_dim: self.head_dim,
            scale_gates_open: stats.open_mul,
            offset_gates_open: stats.open_add,
            values: stats.values,
            heads: stats.norms,
            train: &self.train,
        }
    }

    /// Counts and norms of a valid sidecar.
    pub fn stats(&self) -> SidecarStats {
        let norms: Vec<HeadNorms> = self
            .layers
            .keys()
            .flat_map(|&layer| self.layer_norms(layer))
            .collect();
        let open_mul = norms.iter().filter(|head| head.mul.is_some()).count();
        let open_add = norms.iter().filter(|head| head.add.is_some()).count();
        let heads = (0..self.block_count)
            .map(|layer| u64::from(self.head_count.at(layer).unwrap_or(0)))
            .sum();
        let head_dim = u64::from(self.head_dim);
        SidecarStats {
            layers: self.block_count,
            edited_layers: self.layers.len(),
            heads,
            edited_heads: norms.len(),
            open_mul,
            open_add,
            values: (open_mul + open_add) as u64 * head_dim,
            full_values: 2 * heads * head_dim,
            norms,
        }
    }

    fn layer_norms(&self, layer: u32) -> Vec<HeadNorms> {
        let mut heads: BTreeMap<u32, HeadNorms> = BTreeMap::new();
        let Some(edit) = self.layers.get(&layer) else {
            return Vec::new();
        };
        let mut collect = |vectors: &Option<HeadVectors>, set: fn(&mut HeadNorms, f64)| {
            for (head, vector) in vectors.iter().flat_map(|v| v.iter(self.head_dim)) {
                let norms = heads.entry(head).or_insert(HeadNorms {
                    layer,
                    head,
                    mul: None,
                    add: None,
                });
                set(norms, l2_norm(vector));
            }
        };
        collect(&edit.mul, |norms, norm| norms.mul = Some(norm));
        collect(&edit.add, |norms, norm| norms.add = Some(norm));
        heads.into_values().collect()
    }
}

fn l2_norm(vector: &[f32]) -> f64 {
    let squares = vector.iter().map(|&value| f64::from(value).powi(2));
    squares.sum::<f64>().sqrt()
}
