//! Attention of one layer: from its queries, keys and values to the head outputs before W_O.

use tch::Tensor;

use super::arithmetic::rms_norm;
use super::config::{Config, LayerConfig};
use super::layer::Layer;
use super::pass_context::{visible, Group, Padding, PassContext};
use super::precision::Precision;

/// Attention of one layer.
pub(super) struct Attention<'a> {
    /// Hyper-parameters of the model.
    pub config: &'a Config,
    /// The layer's weights, of which attention itself uses the norms of queries and keys.
    pub layer: &'a Layer,
    /// How the layer rotates and how far it looks back.
    pub kind: LayerConfig,
    /// Number formats of the arithmetic.
    pub precision: Precision,
}

impl Attention<'_> {
    /// Head outputs [T, H·D] before W_O in `precision.math`, for queries, keys and values `qkv`
    /// [T, (H + 2K)·D].
    pub fn head_outputs(&self, qkv: &Tensor, pass: &PassContext) -> Tensor {
        let Config {
            n_head,
            n_head_kv,
            head_dim,
            ..
        } = *self.config;
        let (n_head, n_head_kv, head_dim) = (n_head as i64, n_head_kv as i64, head_dim as i64);
        let Precision {
            math, attention, ..
        } = self.precision;
        let widths = [n_head, n_head_kv, n_head_kv].map(|n| n * head_dim);
        let parts = qkv.split_with_sizes(widths, 1);
        let heads = |part: &Tensor, norm: Option<&Tensor>| -> Tensor {
            let part = self.normed(&part.to_kind(math), norm);
            let part = part.view([qkv.size()[0], -1, head_dim]);
            self.rotated(part, pass).to_kind(attention) // [T, H or K, D]
        };
        let q = heads(&parts[0], self.layer.attn_q_norm.as_ref());
        let k = heads(&parts[1], self.layer.attn_k_norm.as_ref());
        // A part of its own: the backward pass would keep all of `qkv` for a view of it.
        let v = parts[2].to_kind(attention).contiguous();
        let v = v.view([-1, n_head_kv, head_dim]);
        let (mut z, mut start) = (Vec::with_capacity(pass.groups.len()), 0);
        let mut prefix = None;
        for group in &pass.groups {
            let own = |heads: &Tensor| group.rectangle(&heads.narrow(0, start, group.rows));
            let (q, mut k, mut v) = (own(&q), own(&k), own(&v));
            match &prefix {
                Some((before_k, before_v)) if group.continued => {
                    k = behind(before_k, &k);
                    v = behind(before_v, &v);
                }
                _ => prefix = Some((k.shallow_clone(), v.shallow_clone())),
            }
            let mask = match self.kind.local {
                true => &group.local_mask,
                false => &group.mask,
            };
            let outputs = self.attend(&q, &k, &v, mask.as_ref()); // [B, H, t, D]
            z.push(group.rows_of(&outputs.transpose(1, 2))); // [rows, H, D]
            start += group.rows;
        }
        let z = Tensor::cat(&z, 0);
        z.reshape([-1, n_head * head_dim]).to_kind(math)
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

    /// Attention of one group: q [B, H, t, D], k and v [B, K, n, D]; without a `mask` [t, n],
    /// which is added to the scores, it is causal and n is t.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let Config {
            n_head,
            n_head_kv,
            score_scale,
            ..
        } = *self.config;
        let group = (n_head / n_head_kv) as i64;
        let each = |heads: &Tensor| match group {
            1 => heads.shallow_clone(),
            _ => heads.repeat_interleave_self_int(group, 1, None),
        };
        let Some(cap) = self.config.score_cap else {
            let causal = mask.is_none();
            // The GPU kernel that takes a mask does not group heads.
            let grouped = group > 1 && !(q.device().is_cuda() && mask.is_some());
            let (k, v) = match grouped {
                true => (k.shallow_clone(), v.shallow_clone()),
                false => (each(k), each(v)),
            };
            return Tensor::scaled_dot_product_attention(
                q,
                &k,
                &v,
                mask,
                0.0,
                causal,
                score_scale,
                grouped,
            );
        };
        let math = self.precision.math;
        let scores = q.matmul(&each(k).transpose(-1, -2)).to_kind(math);
        let scores = (scores * (score_scale / cap)).tanh() * cap; // [B, H, t, n]
        let scores = match mask {
            Some(mask) => scores + mask,
            None => scores + visible(0, q.size()[2], None, (math, q.device())),
        };
        let shares = scores.softmax(-1, math).to_kind(v.kind());
        shares.matmul(&each(v))
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

impl Group {
    /// The group's rows [rows, n, D] as [B, n, t, D].
    fn rectangle(&self, rows: &Tensor) -> Tensor {
        let (n, head_dim) = (rows.size()[1], rows.size()[2]);
        let places = match &self.padding {
            Some(Padding { from, .. }) => rows.index_select(0, from),
            None => rows.shallow_clone(),
        };
        let shape = [self.sequences, self.longest, n, head_dim];
        places.view(shape).transpose(1, 2)
    }

    /// Of [B, t, n, D] the group's rows [rows, n, D].
    fn rows_of(&self, places: &Tensor) -> Tensor {
        let places = places.flatten(0, 1);
        match &self.padding {
            Some(Padding { to, .. }) => places.index_select(0, to),
            None => places,
        }
    }
}

/// Keys or values [1, K, P, D] that all sequences begin with before their own [B, K, t, D].
fn behind(prefix: &Tensor, own: &Tensor) -> Tensor {
    Tensor::cat(
        &[&prefix.expand([own.size()[0], -1, -1, -1], false), own],
        2,
    )
}
