//! A frozen matrix and what may be added to its product.

use tch::{no_grad, Tensor};

use super::low_rank::LowRank;
use super::precision::Precision;

/// A frozen matrix, maybe of several in the file, with a bias where the file has one.
#[derive(Debug)]
pub struct Linear {
    /// W [out, in]
    pub weight: Tensor,
    /// b [out]
    pub bias: Option<Tensor>,
    /// The matrices in the file, by their names without layer and `.weight`, and their share
    /// of `out`
    pub parts: Vec<(String, i64)>,
}

impl Linear {
    /// [·, out] for `x` [·, in], with low-rank changes of the matrix.
    pub fn forward(&self, x: &Tensor, changes: &[LowRank]) -> Tensor {
        let y = x.linear(&self.weight, self.bias.as_ref());
        for change in changes {
            change.add_to(&y, x);
        }
        y
    }

    /// [·, out] for `x` [·, in], both in the format of arithmetic, which the product is
    /// computed in: rounding logits to the format of storage would cost two digits of the
    /// loss, and make tokens equally likely that are not.
    ///
    /// The matrix is converted a block of rows at a time. Its gradient is that of the product
    /// in the format of storage, as of all other matrices, since the backward pass would
    /// otherwise keep the whole matrix in the format of arithmetic.
    pub fn in_format(&self, x: &Tensor, precision: Precision) -> Tensor {
        let Precision { storage, math } = precision;
        if storage == math {
            return self.forward(x, &[]);
        }
        let mut exact = no_grad(|| {
            let blocks = self.weight.split(BLOCK_ROWS, 0);
            let products = blocks.iter().map(|block| {
                let block = block.to_kind(math);
                x.linear::<Tensor>(&block, None)
            });
            let y = Tensor::cat(&products.collect::<Vec<_>>(), -1);
            match &self.bias {
                Some(bias) => y + bias.to_kind(math),
                None => y,
            }
        });
        if !x.requires_grad() {
            return exact;
        }
        let y = self.forward(&x.to_kind(storage), &[]).to_kind(math);
        exact -= y.detach();
        y + exact
    }
}

/// Rows of a matrix that are converted at a time.
const BLOCK_ROWS: i64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn equals_the_dense_merge() {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
        tch::manual_seed(1);
        let linear = Linear {
            weight: random(&[10, 6]),
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
        let merged = linear.weight.copy();
        for change in &changes {
            let mut rows = merged.narrow(0, change.start, 4);
            rows += change.b.matmul(&change.a) * change.factor;
        }
        let x = random(&[5, 6]);
        let expected = x.linear(&merged, linear.bias.as_ref());
        let found = linear.forward(&x, &changes);
        assert!(found.allclose(&expected, 1e-12, 1e-12, false));
        let plain = x.linear(&linear.weight, linear.bias.as_ref());
        assert!(linear.forward(&x, &[]).equal(&plain));
        assert!(!found.allclose(&plain, 1e-3, 1e-3, false));
    }

    #[test]
    fn logits_are_not_rounded_to_the_format_of_storage() {
        let precision = Precision::BF16;
        tch::manual_seed(1);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let linear = Linear {
            weight: random(&[BLOCK_ROWS + 3, 8]).to_kind(Kind::BFloat16),
            bias: None,
            parts: Vec::new(),
        };
        let x = random(&[5, 8]).set_requires_grad(true);
        let weight = linear.weight.to_kind(Kind::Double);
        let expected = x.to_kind(Kind::Double).linear::<Tensor>(&weight, None);
        let y = linear.in_format(&x, precision);
        let far = (y.to_kind(Kind::Double) - &expected).abs().max();
        assert!(far.double_value(&[]) < 1e-5, "{far:?}");
        let inference = no_grad(|| linear.in_format(&x.detach(), precision));
        assert!(inference.allclose(&y, 1e-6, 1e-6, false));

        let direction = random(&[5, BLOCK_ROWS + 3]);
        (y * &direction).sum(Kind::Float).backward();
        let expected = direction.to_kind(Kind::Double).matmul(&weight);
        let far = (x.grad().to_kind(Kind::Double) - &expected).norm() / expected.norm();
        assert!(far.double_value(&[]) < 0.01, "{far:?}");
    }
}
