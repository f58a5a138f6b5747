//! What a user chooses about LoRA.

use serde::Serialize;

use crate::base::Base;

/// The size and the place of the changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoraConfig {
    /// r, the rank of each change.
    pub rank: usize,
    /// α; a change is α/r·B·A.
    pub alpha: f64,
    /// Names of the matrices without layer and `.weight`, as `attn_q`.
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// Numbers that are trained in a base of `n_layer` layers; targets that it lacks count
    /// nothing.
    pub fn n_trainable(&self, base: &dyn Base, n_layer: usize) -> usize {
        let layers = 0..n_layer;
        let names = layers.flat_map(|l| {
            self.targets
                .iter()
                .map(move |t| format!("blk.{l}.{t}.weight"))
        });
        let tensors = names.filter_map(|name| base.tensor(&name).map(|tensor| tensor.dims));
        let sizes = tensors.map(|dims| dims.iter().sum::<u64>() as usize * self.rank);
        sizes.sum()
    }
}
