//! Attention of one layer: from its queries, keys and values to the head outputs before W_O.

use tch::{Kind, Tensor};

use super::arithmetic::rms_norm;
use super::config::{Config, LayerConfig};
use super::layer::Layer;
use super::pass_context::{visible, PassContext, Span};

/// Attention of one layer.
pub(super) struct Attention<'a> {
    /// Hyper-parameters of the model.
    pub config: &'a Config,
    /// The layer's weights, of which attention itself uses the norms of queries and keys.
    pub layer: &'a Layer,
    /// How the layer rotates and how far it looks back.
    pub kind: LayerConfig,
    /// Number format of the arithmetic.
    pub math: Kind,
}

impl Attention<'_> {
    /// Head outputs [T, H·D] before W_O in `math`, for queries, keys and values `qkv`
    /// [T, (H + 2K)·D].
    ///
    /// Only the projection that made `qkv` is in the format of storage: attention itself is a small part of
    /// the work, and its backward pass on CPUs is three times slower in bfloat16.
    pub fn head_outputs(&self, qkv: &Tensor, pass: &PassContext) -> Tensor {
        let Config {
            n_head,
            n_head_kv,
            head_dim,
            ..
        } = *self.config;
        let (n_head, n_head_kv, head_dim) = (n_head as i64, n_head_kv as i64, head_dim as i64);
        let qkv = qkv.to_kind(self.math);
        let widths = [n_head, n_head_kv, n_head_kv].map(|n| n * head_dim);
        let parts = qkv.split_with_sizes(widths, 1);
        let heads = |part: &Tensor, norm: Option<&Tensor>| -> Tensor {
            let part = self.normed(part, norm).view([qkv.size()[0], -1, head_dim]);
            self.rotated(part, pass) // [T, H or K, D]
        };
        let q = heads(&parts[0], self.layer.attn_q_norm.as_ref());
        let k = heads(&parts[1], self.layer.attn_k_norm.as_ref());
        let v = parts[2].view([-1, n_head_kv, head_dim]);
        // Sequences do not see each other: one attention each, [1, H, t, D].
        let lengths: Vec<i64> = pass.spans.iter().map(|span| span.length).collect();
        let by_span = |tensor: &Tensor| -> Vec<Tensor> {
            let heads_first = tensor.transpose(0, 1).unsqueeze(0);
            heads_first.split_with_sizes(&lengths, 2)
        };
        let (q, k, v) = (by_span(&q), by_span(&k), by_span(&v));
        let seen = |i: usize, own: &[Tensor]| match pass.prefixed && i > 0 {
            true => Tensor::cat(&[&own[0], &own[i]], 2), // [1, K, prefix + t, D]
            false => own[i].shallow_clone(),
        };
        let attend = |(i, span): (usize, &Span)| {
            let mask = match self.kind.local {
                true => &span.local_mask,
                false => &span.mask,
            };
            self.attend(&q[i], &seen(i, &k), &seen(i, &v), mask.as_ref())
        };
        let z: Vec<Tensor> = pass.spans.iter().enumerate().map(attend).collect();
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
        } = *self.config;
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
        scores.softmax(-1, self.math).matmul(&each(v))
    }

    /// Queries or keys [T, n, D] at their positions.
    fn rotated(&self, heads: Tensor, pass: &PassContext) -> Tensor {
        let rotation = match self.kind {
            LayerConfig { rotated: false, .. } => return heads,
            LayerConfig { local: true, .. } => &pass.local_rotation,
            LayerConfig { local: false, .. } => &pass.rotation,
        };
        rotation.apply(&heads, self.config.rope_pairs)
    }
}
