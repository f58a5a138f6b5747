//! From trained parameters to a sidecar, and from sidecars to what the model applies.

use std::collections::BTreeMap;

use jola_edit::{BaseShape, EditSet, HeadVectors, LayerEdit, Sidecar};
use tch::{Device, Kind, Tensor};

use super::edits::Edits;
use super::half::Half;
use super::provenance::Provenance;
use crate::model::{HeadEdit, LayerChange};

/// The sidecar of trained edits: heads whose gate is open by its deterministic value, with
/// the product of gate and vector.
pub fn to_sidecar(edits: &Edits, base: &BaseShape, provenance: Provenance) -> Sidecar {
    let mut layers: BTreeMap<u32, LayerEdit> = BTreeMap::new();
    for (half, gate) in edits.halves.iter().zip(edits.fixed_gates()) {
        let products = half.product(&gate).detach(); // [L, H, D]
        for layer in 0..base.block_count {
            let index = i64::from(layer);
            let open = open_heads(&gate.values.get(index), &products.get(index));
            if let Some(vectors) = open {
                let entry = layers.entry(layer).or_default();
                match half.half {
                    Half::Scale => entry.mul = Some(vectors),
                    Half::Offset => entry.add = Some(vectors),
                }
            }
        }
    }
    Sidecar {
        name: provenance.name,
        base_model_name: provenance.base_model_name,
        base_sha256: provenance.base_sha256,
        train: provenance.train,
        ..base.sidecar(edits.method.name(), layers)
    }
}

/// The vectors [H, D] of the heads whose gate [H] is open; `None` when all are closed.
fn open_heads(gates: &Tensor, vectors: &Tensor) -> Option<HeadVectors> {
    let gates = Vec::<f64>::try_from(gates.to_kind(Kind::Double)).expect("one value per head");
    let open = (0u32..).zip(&gates).filter(|(_, gate)| **gate > 0.0);
    let heads: Vec<u32> = open.map(|(head, _)| head).collect();
    let values = heads.iter().flat_map(|&head| {
        let vector = vectors.get(i64::from(head)).to_kind(Kind::Float);
        Vec::<f32>::try_from(vector).expect("one value per dimension")
    });
    let values: Vec<f32> = values.collect();
    (!heads.is_empty()).then_some(HeadVectors { heads, values })
}

/// Composed sidecars as the model applies them, one entry per layer.
pub fn from_edit_set(
    set: &EditSet,
    n_layer: usize,
    kind: Kind,
    device: Device,
) -> Vec<LayerChange> {
    let mut changes = LayerChange::none(n_layer);
    let row = |values: &[f32]| Tensor::from_slice(values).to_kind(kind).to_device(device);
    for (change, layer) in changes.iter_mut().zip(0u32..) {
        if let Some(dense) = set.layers.get(&layer) {
            change.heads = HeadEdit {
                factor: dense.factor().map(row),
                offset: dense.add().map(row),
            };
        }
    }
    changes
}
