//! One half of the edits of all heads: its vectors, and what its gates let through.

use tch::Tensor;

use super::half::Half;

/// Vectors of one half with their gates.
#[derive(Debug)]
pub struct GatedVectors {
    /// Which half of the edit they are.
    pub half: Half,
    /// [L, H, D], requires a gradient; in units of `unit`
    pub vectors: Tensor,
    /// [L, H, 1]: 1 for scales; for offsets the size of the head's outputs in the base
    /// model, so that one learning rate fits all heads of all models
    pub unit: Tensor,
    /// [L, H], requires a gradient; one tensor for both halves where they share a gate
    pub log_alpha: Tensor,
}

impl GatedVectors {
    /// Gate times vector, what the edit really is: [L, H, D].
    pub fn product(&self, gate: &GateValues) -> Tensor {
        &self.vectors * (gate.values.unsqueeze(-1) * &self.unit)
    }
}

/// Values of one half's gates.
#[derive(Debug)]
pub struct GateValues {
    /// The gates' values, [L, H]
    pub values: Tensor,
    /// Per layer, whether any gate may be open; a layer without keeps its graph unedited.
    pub layers: Vec<bool>,
}

impl GateValues {
    /// For gates [L, H] of which any may be open.
    pub(super) fn everywhere(values: Tensor) -> GateValues {
        let layers = vec![true; values.size()[0] as usize];
        GateValues { values, layers }
    }
}
