//! What a layer applies besides its frozen weights, whoever has trained it.

use tch::Tensor;

use super::head_edit::HeadEdit;
use super::low_rank::LowRankChanges;

/// Everything that changes in one layer.
#[derive(Debug, Default)]
pub struct LayerChange {
    /// Edit of the layer's head outputs.
    pub heads: HeadEdit,
    /// Low-rank changes of the layer's matrices.
    pub matrices: LowRankChanges,
}

impl LayerChange {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.tensors().is_empty()
    }

    /// All tensors, in a fixed order.
    pub fn tensors(&self) -> Vec<&Tensor> {
        self.heads
            .tensors()
            .chain(self.matrices.tensors())
            .collect()
    }

    /// The same change, with tensors that are parameters of their own.
    pub fn cut(&self) -> LayerChange {
        let cut = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        LayerChange {
            heads: self.heads.map(cut),
            matrices: self.matrices.map(cut),
        }
    }

    /// One entry per layer that changes nothing.
    pub fn none(n_layer: usize) -> Vec<LayerChange> {
        (0..n_layer).map(|_| LayerChange::default()).collect()
    }
}
