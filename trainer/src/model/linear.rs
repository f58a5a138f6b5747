//! A frozen matrix and what may be added to its product.

use tch::Tensor;

use super::low_rank::LowRank;
use super::weight::Weight;

/// A frozen matrix, maybe of several in the file, with a bias where the file has one.
#[derive(Debug)]
pub struct Linear {
    /// W [out, in]
    pub weight: Weight,
    /// b [out]
    pub bias: Option<Tensor>,
    /// The matrices in the file, by their names without layer and `.weight`, and their share
    /// of `out`
    pub parts: Vec<(String, i64)>,
}

impl Linear {
    /// [·, out] for `x` [·, in], with low-rank changes of the matrix.
    pub fn forward(&self, x: &Tensor, changes: &[LowRank]) -> Tensor {
        let y = x.linear(&self.weight.dense(), self.bias.as_ref());
        for change in changes {
            change.add_to(&y, x);
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn equals_the_dense_merge() {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
        tch::manual_seed(1);
        let linear = Linear {
            weight: random(&[10, 6]).into(),
            bias: Some(random(&[10])),
            parts: vec![("q".into(), 4), ("k".into(), 2), ("v".into(), 4)],
        };
        let change = |start, out| LowRank {
            start,
            a: random(&[3, 6]),
            b: random(&[out, 3]),
            factor: 0.7,
        };
        let changes = [change(0, 4), change(6, 4)];
        let merged = linear.weight.dense().copy();
        for change in &changes {
            let mut rows = merged.narrow(0, change.start, 4);
            rows += change.b.matmul(&change.a) * change.factor;
        }
        let x = random(&[5, 6]);
        let expected = x.linear(&merged, linear.bias.as_ref());
        let found = linear.forward(&x, &changes);
        assert!(found.allclose(&expected, 1e-12, 1e-12, false));
        let plain = x.linear(&linear.weight.dense(), linear.bias.as_ref());
        assert!(linear.forward(&x, &[]).equal(&plain));
        assert!(!found.allclose(&plain, 1e-3, 1e-3, false));
    }
}
