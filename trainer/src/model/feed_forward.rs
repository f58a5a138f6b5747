//! Feed-forward layers: one gated pair of matrices, or a mixture of experts.

use tch::{Kind, Tensor};

use crate::architectures::Activation;
use crate::readings;

use super::linear::Linear;
use super::low_rank::{JoinedMatrix, LowRankChanges};
use super::precision::Precision;
use super::weight::Weight;

/// Frozen weights of a feed-forward layer.
#[derive(Debug)]
pub enum FeedForward {
    /// W_down (f(W_gate h) ⊙ W_up h)
    Dense {
        /// [2F, d]: gate, then up
        gate_up: Linear,
        /// [d, F]: back to the width of the residual stream
        down: Linear,
    },
    /// A few such layers per token, chosen and weighted by a router.
    Experts {
        /// [E, d]: scores each expert for a token, in the format of arithmetic: experts that
        /// score alike would else change places
        router: Tensor,
        /// How many experts compute for one token.
        used: usize,
        /// [E·F, d]: the gate matrix of each expert
        gate: Weight,
        /// [E·F, d]: the up matrix of each expert
        up: Weight,
        /// [E·d, F]: the down matrix of each expert
        down: Weight,
    },
}

/// Smallest sum of expert weights that they are divided by: ggml's, the least normal f16.
const MIN_WEIGHT_SUM: f64 = 6.103_515_625e-5;

impl FeedForward {
    /// Output [T, d] for input `h` [T, d] in `precision.math`, without experts with low-rank
    /// changes; routing is in that format, too.
    pub fn forward(
        &self,
        h: &Tensor,
        changes: &LowRankChanges,
        activation: Activation,
        precision: Precision,
    ) -> Tensor {
        let Precision { storage, math, .. } = precision;
        let operand = h.to_kind(storage);
        match self {
            FeedForward::Dense { gate_up, down } => {
                let gate_up = gate_up
                    .forward(&operand, changes.of(JoinedMatrix::GateUp))
                    .chunk(2, -1); // 2 × [T, F]
                let inner = gated(&gate_up[0], &gate_up[1], activation);
                down.forward(&inner, changes.of(JoinedMatrix::Down))
            }
            FeedForward::Experts {
                router,
                used,
                gate,
                up,
                down,
            } => {
                let (weights, chosen) = route(h, router, *used, math); // [T, used] both
                let n_expert = router.size()[0];
                // Sorted by expert, each expert's tokens are a piece.
                let (sorted, order) = chosen.flatten(0, -1).sort_stable(true, -1, false);
                let counts = sorted.bincount::<Tensor>(None, n_expert);
                let counts = readings::counts(&counts);
                let tokens = order.divide_scalar_mode(*used as i64, "floor");
                let weights = weights.flatten(0, -1).index_select(0, &order);
                let operand = operand.index_select(0, &tokens); // [T·used, d]
                let mut outputs = Vec::with_capacity(counts.len());
                let mut start = 0;
                for (expert, &count) in (0..).zip(&counts) {
                    if count == 0 {
                        continue;
                    }
                    let x = operand.narrow(0, start, count); // [n, d]
                    let linear = |x: &Tensor, all: &Weight| {
                        let rows = all.size()[0] / n_expert;
                        let own = all.narrow(expert * rows, rows).dense();
                        x.linear::<Tensor>(&own, None)
                    };
                    let y = gated(&linear(&x, gate), &linear(&x, up), activation); // [n, F]
                    outputs.push(linear(&y, down).to_kind(math)); // [n, d]
                    start += count;
                }
                let outputs = Tensor::cat(&outputs, 0) * weights.unsqueeze(1);
                h.zeros_like().index_add(0, &tokens, &outputs) // [T, d]
            }
        }
    }

    /// Gate-and-up and down matrices of a layer without experts.
    pub fn dense(&self) -> Option<(&Linear, &Linear)> {
        match self {
            FeedForward::Dense { gate_up, down } => Some((gate_up, down)),
            FeedForward::Experts { .. } => None,
        }
    }
}

/// Weights and numbers of the experts that each token uses: [T, used] both.
fn route(h: &Tensor, router: &Tensor, used: usize, math: Kind) -> (Tensor, Tensor) {
    let scores = h.linear::<Tensor>(router, None); // [T, E]
    let shares = scores.softmax(-1, math);
    let (weights, chosen) = shares.topk(used as i64, -1, true, false);
    let sum = weights.sum_dim_intlist(-1, true, math);
    (weights / sum.clamp_min(MIN_WEIGHT_SUM), chosen)
}

/// f(gate) ⊙ up
fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Tensor {
    let gate = match activation {
        Activation::Silu => gate.silu(),
        Activation::Gelu => gate.gelu("tanh"),
    };
    gate * up
}
