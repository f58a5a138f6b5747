//! The edit of a layer's head outputs as the layer applies it: `z' = factor ⊙ z + offset`.

use tch::Tensor;

/// What is done to the head outputs of a layer.
#[derive(Debug, Default)]
pub struct HeadEdit {
    /// [H·D], 1 where nothing is scaled
    pub factor: Option<Tensor>,
    /// [H·D], 0 where nothing is added
    pub offset: Option<Tensor>,
}

impl HeadEdit {
    /// Head outputs `z` [·, H·D] after the edit; both in the same format.
    pub fn apply(&self, z: Tensor) -> Tensor {
        let there = |tensor: &Tensor| tensor.to_device(z.device());
        match (
            self.factor.as_ref().map(there),
            self.offset.as_ref().map(there),
        ) {
            (None, None) => z,
            (Some(factor), None) => z * factor,
            (None, Some(offset)) => z + offset,
            (Some(factor), Some(offset)) => offset.addcmul(&z, &factor),
        }
    }

    /// Its tensors, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.factor, &self.offset]
            .into_iter()
            .filter_map(Option::as_ref)
    }

    /// The same edit with other tensors.
    pub fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> HeadEdit {
        HeadEdit {
            factor: self.factor.as_ref().map(&f),
            offset: self.offset.as_ref().map(&f),
        }
    }
}
