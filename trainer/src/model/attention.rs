//! Attention of one layer: from the normalised input to the head outputs before W_O.

use tch::{Device, Kind, Tensor};

use crate::architectures::{QkNorm, RopePairs};
use crate::model::batch::Batch;
use crate::model::config::{Config, LayerConfig};
use crate::model::decoder::{rms_norm, Layer, Model};

/// What all layers share in one forward pass.
pub(crate) struct Shared {
    /// The packed tokens in the order of the batch: the shared prefix if there is one, then
    /// the rest of each sequence.
    spans: Vec<Span>,
    /// Whether the first span is a prefix that the others continue.
    prefixed: bool,
    /// e^(i·position·frequency), complex [T, 1, rotated/2], times the magnitude
    rotation: Tensor,
    /// The same for layers with a window.
    local_rotation: Tensor,
}

/// Consecutive tokens of one sequence.
struct Span {
    /// t, how many there are.
    length: i64,
    /// What they see, [t, prefix + t]: 0, or −∞ where they do not; `None` for plain causal
    /// attention without a prefix.
    mask: Option<Tensor>,
    /// The same in layers with a window.
    local_mask: Option<Tensor>,
}

impl Shared {
    /// For the tokens of `batch`.
    pub fn new(model: &Model, batch: &Batch) -> Shared {
        let math = model.precision.math;
        let Batch {
            positions,
            prefix,
            lengths,
            ..
        } = batch;
        let longest = prefix + lengths.iter().copied().max().unwrap_or(0);
        let window = model.config.window as i64;
        let span = |prefix: i64, length: i64| {
            let visible = |window| visible(prefix, length, window, (math, positions.device()));
            let mask = (prefix > 0).then(|| visible(None));
            let local_mask = match 0 < window && window < prefix + length {
                true => Some(visible(Some(window))),
                false => mask.as_ref().map(Tensor::shallow_clone),
            };
            Span {
                length,
                mask,
                local_mask,
            }
        };
        let start = (*prefix > 0).then(|| span(0, *prefix));
        let rest = lengths.iter().map(|&length| span(*prefix, length));
        Shared {
            spans: start.into_iter().chain(rest).collect(),
            prefixed: *prefix > 0,
            rotation: rotation(
                positions,
                model.frequencies.of_context(longest as usize),
                model.config.rope.magnitude(),
                math,
            ),
            local_rotation: rotation(
                positions,
                &model.frequencies.local,
                model.config.local_rope.magnitude(),
                math,
            ),
        }
    }
}

/// What `length` tokens behind a prefix see, [length, prefix + length]: 0 for themselves
/// and what is before them (only the last `window` of these), −∞ for the rest.
fn visible(prefix: i64, length: i64, window: Option<i64>, options: (Kind, Device)) -> Tensor {
    let all = Tensor::ones([length, prefix + length], (Kind::Bool, options.1));
    let seen = all.tril(prefix);
    let seen = match window {
        Some(window) => seen.triu(prefix + 1 - window),
        None => seen,
    };
    Tensor::zeros_like(&seen)
        .to_kind(options.0)
        .masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
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
        qkv: &Tensor,
        shared: &Shared,
    ) -> Tensor {
        let Config {
            n_head,
            n_head_kv,
            head_dim,
            ..
        } = self.config;
        let (n_head, n_head_kv, head_dim) = (n_head as i64, n_head_kv as i64, head_dim as i64);
        let qkv = qkv.to_kind(self.precision.math);
        let widths = [n_head, n_head_kv, n_head_kv].map(|n| n * head_dim);
        let parts = qkv.split_with_sizes(widths, 1);
        let heads = |part: &Tensor, norm: Option<&Tensor>| -> Tensor {
            let part = self.normed(part, norm).view([qkv.size()[0], -1, head_dim]);
            self.rotate(part, what, shared) // [T, H or K, D]
        };
        let q = heads(&parts[0], layer.attn_q_norm.as_ref());
        let k = heads(&parts[1], layer.attn_k_norm.as_ref());
        let v = parts[2].view([-1, n_head_kv, head_dim]);
        // Sequences do not see each other: one attention each, [1, H, t, D].
        let lengths: Vec<i64> = shared.spans.iter().map(|span| span.length).collect();
        let by_span = |tensor: &Tensor| -> Vec<Tensor> {
            let heads_first = tensor.transpose(0, 1).unsqueeze(0);
            heads_first.split_with_sizes(&lengths, 2)
        };
        let (q, k, v) = (by_span(&q), by_span(&k), by_span(&v));
        let seen = |i: usize, own: &[Tensor]| match shared.prefixed && i > 0 {
            true => Tensor::cat(&[&own[0], &own[i]], 2), // [1, K, prefix + t, D]
            false => own[i].shallow_clone(),
        };
        let attend = |(i, span): (usize, &Span)| {
            let mask = match what.local {
                true => &span.local_mask,
                false => &span.mask,
            };
            self.attend(&q[i], &seen(i, &k), &seen(i, &v), mask.as_ref())
        };
        let z: Vec<Tensor> = shared.spans.iter().enumerate().map(attend).collect();
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

    /// Attention of one span: q [1, H, t, D], k and v [1, K, n, D]; without a `mask` [t, n],
    /// which is added to the scores, it is causal and n is t.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let Config {
            n_head,
            n_head_kv,
            score_scale,
            ..
        } = self.config;
        let Some(cap) = self.config.score_cap else {
            let (causal, gqa) = (mask.is_none(), n_head != n_head_kv);
            return Tensor::scaled_dot_product_attention(
                q,
                k,
                v,
                mask,
                0.0,
                causal,
                score_scale,
                gqa,
            );
        };
        let group = (n_head / n_head_kv) as i64;
        let each = |tensor: &Tensor| tensor.repeat_interleave_self_int(group, 1, None);
        let scores = q.matmul(&each(k).transpose(-1, -2));
        let scores = (scores * (score_scale / cap)).tanh() * cap; // [1, H, t, n]
        let scores = match mask {
            Some(mask) => scores + mask,
            None => scores + visible(0, q.size()[2], None, (q.kind(), q.device())),
        };
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
