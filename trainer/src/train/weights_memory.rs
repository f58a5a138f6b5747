//! The memory that the frozen weights take, worked out before they are read.

use crate::base::Base;
use crate::model::{bytes_of, stays_in_blocks, Config, Precision};

/// Bytes of the frozen weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// What is held for the whole run.
    pub held: u64,
    /// The dense weights of the largest layer, where they are there only while it computes; 0
    /// where they are held.
    pub layer: u64,
    /// The dense output matrix, where it is there only for the logits; else 0.
    pub output_matrix: u64,
    /// Matrices that are to stay in blocks and cannot.
    pub dense_matrices: usize,
}

impl WeightBytes {
    /// Those of `base` in this precision.
    pub fn of(base: &dyn Base, config: &Config, precision: Precision) -> WeightBytes {
        let (storage, math) = (bytes_of(precision.storage), bytes_of(precision.math));
        let mut bytes = WeightBytes::default();
        let mut layers = vec![0; config.n_layer];
        let names = base.tensor_names();
        let tied = !names.contains(&"output.weight");
        for name in names {
            let Some(tensor) = base.tensor(name) else {
                continue;
            };
            let numbers: u64 = tensor.dims.iter().product();
            let output = name == "output.weight" || (tied && name == "token_embd.weight");
            let dense = numbers * if output { math } else { storage };
            let is_matrix = tensor.dims.len() > 1;
            if !(precision.blocks && is_matrix && tensor.parts.iter().all(stays_in_blocks)) {
                bytes.dense_matrices += usize::from(precision.blocks && is_matrix);
                bytes.held += dense;
                continue;
            }
            let parts = tensor.parts.iter();
            bytes.held += parts.map(|part| part.bytes.len() as u64).sum::<u64>();
            if output {
                bytes.output_matrix = dense;
            } else if let Some(layer) = layer_of(name).and_then(|layer| layers.get_mut(layer)) {
                *layer += dense;
            }
        }
        bytes.layer = layers.into_iter().max().unwrap_or(0);
        bytes
    }
}

/// The layer that a tensor belongs to.
fn layer_of(name: &str) -> Option<usize> {
    let (layer, _) = name.strip_prefix("blk.")?.split_once('.')?;
    layer.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_name_their_layer() {
        assert_eq!(layer_of("blk.12.attn_q.weight"), Some(12));
        assert_eq!(layer_of("token_embd.weight"), None);
        assert_eq!(layer_of("blk.x.attn_q.weight"), None);
    }
}
