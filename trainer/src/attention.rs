//! Attention of one layer: from the normalised input to the head outputs before W_O.

use tch::{Kind, Tensor};

use crate::arch::{QkNorm, RopePairs};
use crate::config::{Config, LayerConfig};
use crate::model::{rms_norm, Layer, Model};

/// What all layers share in one forward pass.
pub(crate) struct Shared<'a> {
    /// Length of each sequence; their sum is T.
    lengths: &'a [i64],
    /// e^(i·position·frequency), complex [T, 1, rotated/2], times the magnitude
    rotation: Tensor,
    /// The same for layers with a window.
    local_rotation: Tensor,
    /// Per sequence, [t, t] of which tokens layers with a window see; `None` where the
    /// window is no shorter than the sequence.
    windows: Vec<Option<Tensor>>,
}

impl<'a> Shared<'a> {
    /// For tokens at `positions` [T].
    pub fn new(model: &Model, positions: &Tensor, lengths: &'a [i64]) -> Shared<'a> {
        let math = model.precision.math;
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        let window = model.config.window as i64;
        Shared {
            lengths,
            rotation: rotation(
                positions,
                model.frequencies.of_context(longest),
                model.config.rope.magnitude(),
                math,
            ),
            local_rotation: rotation(
                positions,
                &model.frequencies.local,
                model.config.local_rope.magnitude(),
                math,
            ),
            windows: lengths
                .iter()
                .map(|&length| {
                    (0 < window && window < length).then(|| {
                        let all = Tensor::ones([length, length], (Kind::Bool, positions.device()));
                        all.tril(0).triu(1 - window)
                    })
                })
                .collect(),
        }
    }
}

/// Complex [T, 1, n] for frequencies [n].
fn rotation(positions: &Tensor, frequencies: &Tensor, magnitude: f64, math: Kind) -> Tensor {
    let angles = positions.to_kind(Kind::Double).unsqueeze(1) * frequencies.unsqueeze(0);
    let complex = match math {
        Kind::Double => Kind::ComplexDouble,
        _ => Kind::ComplexFloat,
    };
    let length = angles.full_like(magnitude);
    Tensor::polar(&length, &angles)
        .unsqueeze(1)
        .to_kind(complex)
}

impl Model {
    /// Head outputs [T, H·D] before W_O in `precision.math`, for input `h` [T, d].
    ///
    /// Only the projection is in `precision.storage`: attention itself is a small part of
    /// the work, and its backward pass on CPUs is three times slower in bfloat16.
    pub(crate) fn attention(
        &self,
        layer: &Layer,
        what: LayerConfig,
        h: &Tensor,
        shared: &Shared,
    ) -> Tensor {
        let Config {
            n_head,
            n_head_kv,
            head_dim,
            ..
        } = self.config;
        let (n_head, n_head_kv, head_dim) = (n_head as i64, n_head_kv as i64, head_dim as i64);
        let qkv = layer.attn_qkv.forward(h).to_kind(self.precision.math); // [T, (H + 2K)·D]
        let widths = [n_head, n_head_kv, n_head_kv].map(|n| n * head_dim);
        let parts = qkv.split_with_sizes(widths, 1);
        let heads = |part: &Tensor, norm: Option<&Tensor>| -> Tensor {
            let part = self.normed(part, norm).view([h.size()[0], -1, head_dim]);
            self.rotate(part, what, shared) // [T, H or K, D]
        };
        let q = heads(&parts[0], layer.attn_q_norm.as_ref());
        let k = heads(&parts[1], layer.attn_k_norm.as_ref());
        let v = parts[2].view([-1, n_head_kv, head_dim]);
        // Sequences do not see each other: one attention each, [1, H, t, D].
        let by_sequence = |tensor: &Tensor| -> Vec<Tensor> {
            let heads_first = tensor.transpose(0, 1).unsqueeze(0);
            heads_first.split_with_sizes(shared.lengths, 2)
        };
        let (q, k, v) = (by_sequence(&q), by_sequence(&k), by_sequence(&v));
        let attend = |i: usize| {
            let window = shared.windows[i].as_ref().filter(|_| what.local);
            self.attend(&q[i], &k[i], &v[i], window)
        };
        let z: Vec<Tensor> = (0..q.len()).map(attend).collect();
        let z = Tensor::cat(&z, 2); // [1, H, T, D]
        z.squeeze_dim(0)
            .transpose(0, 1)
            .reshape([-1, n_head * head_dim])
    }

    /// Queries or keys [T, n·D] after their norm, which is of one head's width or of all.
    fn normed(&self, heads: &Tensor, norm: Option<&Tensor>) -> Tensor {
        match norm {
            None => heads.shallow_clone(),
            Some(weight) => {
                let by_norm = heads.reshape([heads.size()[0], -1, weight.size()[0]]);
                rms_norm(&by_norm, weight, self.config.rms_eps)
            }
        }
    }

    /// Causal attention of one sequence: q [1, H, t, D], k and v [1, K, t, D].
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<&Tensor>) -> Tensor {
        let Config {
            n_head,
            n_head_kv,
            score_scale,
            ..
        } = self.config;
        let Some(cap) = self.config.score_cap else {
            let (causal, gqa) = (window.is_none(), n_head != n_head_kv);
            return Tensor::scaled_dot_product_attention(
                q,
                k,
                v,
                window,
                0.0,
                causal,
                score_scale,
                gqa,
            );
        };
        let group = (n_head / n_head_kv) as i64;
        let each = |tensor: &Tensor| tensor.repeat_interleave_self_int(group, 1, None);
        let scores = q.matmul(&each(k).transpose(-1, -2));
        let scores = (scores * (score_scale / cap)).tanh() * cap; // [1, H, t, t]
        let seen = match window {
            Some(window) => window.shallow_clone(),
            None => {
                let t = q.size()[2];
                Tensor::ones([t, t], (Kind::Bool, q.device())).tril(0)
            }
        };
        let scores = scores.masked_fill(&seen.logical_not(), f64::NEG_INFINITY);
        scores.softmax(-1, self.precision.math).matmul(&each(v))
    }

    /// Rotary position embedding of heads [T, n, D]: each pair is a complex number.
    fn rotate(&self, heads: Tensor, what: LayerConfig, shared: &Shared) -> Tensor {
        if !what.rotated {
            return heads;
        }
        let (rotation, rope) = if what.local {
            (&shared.local_rotation, &self.config.local_rope)
        } else {
            (&shared.rotation, &self.config.rope)
        };
        let (dim, head_dim) = (rope.dim as i64, heads.size()[2]);
        let (n_token, n) = (heads.size()[0], heads.size()[1]);
        let x = heads.narrow(2, 0, dim);
        let pairs = match self.config.rope_pairs {
            RopePairs::Adjacent => x.reshape([n_token, n, dim / 2, 2]),
            RopePairs::Halves => x
                .reshape([n_token, n, 2, dim / 2])
                .transpose(2, 3)
                .contiguous(),
        };
        let turned = (pairs.view_as_complex() * rotation).view_as_real(); // [T, n, dim/2, 2]
        let turned = match self.config.rope_pairs {
            RopePairs::Adjacent => turned,
            RopePairs::Halves => turned.transpose(2, 3),
        };
        let turned = turned.reshape([n_token, n, dim]);
        if dim == head_dim {
            return turned;
        }
        let rest = heads.narrow(2, dim, head_dim - dim);
        Tensor::cat(&[turned, rest], 2)
    }
}

impl QkNorm {
    /// Width of the norm of `n` heads of width `head_dim`; `None` without a norm.
    pub(crate) fn width(self, n: usize, head_dim: usize) -> Option<usize> {
        match self {
            QkNorm::No => None,
            QkNorm::Head => Some(head_dim),
            QkNorm::Token => Some(n * head_dim),
        }
    }
}
