//! The reference model: a decoder-only transformer of the Llama family, in tch.
//!
//! Written to be read beside llama.cpp's graph. Shapes stand in the comments:
//! T tokens of all packed sequences, d embedding width, H query heads, K key-value heads,
//! D head width, F feed-forward width, V vocabulary, R selected rows.
//!
//! The weights are frozen: gradients flow through them to the edits only, and reach no
//! layer below the lowest edited one.

use tch::{no_grad, Device, Kind, Tensor};

use crate::model::attention::Shared;
use crate::model::batch::Batch;
use crate::model::config::Config;
use crate::method::edits::LayerEdit;
use crate::model::feed_forward::FeedForward;
use crate::method::lora::{Joined, LayerLora, LowRank};

/// Number formats of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Frozen matrices and their operands.
    pub storage: Kind,
    /// Edits, residual stream, norms, attention and loss.
    pub math: Kind,
}

impl Precision {
    /// float32 throughout.
    pub const F32: Precision = Precision {
        storage: Kind::Float,
        math: Kind::Float,
    };
    /// bfloat16 matrices and operands, float32 arithmetic around them.
    pub const BF16: Precision = Precision {
        storage: Kind::BFloat16,
        math: Kind::Float,
    };
    /// float64 throughout: for checks of gradients.
    pub const F64: Precision = Precision {
        storage: Kind::Double,
        math: Kind::Double,
    };

    /// The name used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self.storage {
            Kind::BFloat16 => "bf16",
            Kind::Double => "f64",
            _ => "f32",
        }
    }
}

/// A frozen matrix, maybe of several in the file, with a bias where the file has one.
#[derive(Debug)]
pub struct Linear {
    /// [out, in]
    pub weight: Tensor,
    /// [out]
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
}

/// Frozen weights of one layer. Matrices are [out, in] as in the file; those that read
/// the same input are joined along `out`. Norms that the architecture lacks are `None`.
#[derive(Debug)]
pub struct Layer {
    /// [d]: on what attention reads
    pub attn_norm: Option<Tensor>,
    /// [(H + 2K)·D, d]: query, key and value heads
    pub attn_qkv: Linear,
    /// [D] or [H·D]: on queries, by head or by token
    pub attn_q_norm: Option<Tensor>,
    /// [D] or [K·D]: on keys, by head or by token
    pub attn_k_norm: Option<Tensor>,
    /// [d, H·D]: W_O
    pub attn_output: Linear,
    /// [d]: on what attention adds
    pub attn_post_norm: Option<Tensor>,
    /// [d]: on what the feed-forward layer reads
    pub ffn_norm: Option<Tensor>,
    /// Feed-forward layer.
    pub ffn: FeedForward,
    /// [d]: on what the feed-forward layer adds
    pub ffn_post_norm: Option<Tensor>,
}

/// The angle of each pair at position 1, [rotated/2] float64.
#[derive(Debug)]
pub struct Frequencies {
    /// In most layers, up to the original context.
    pub short: Tensor,
    /// In most layers, beyond the original context, where the model tells them apart.
    pub long: Option<Tensor>,
    /// In layers with a window.
    pub local: Tensor,
    /// The context, in tokens, that the model is served with.
    pub served_context: usize,
    /// The longest context for which `short` holds.
    pub short_context: usize,
}

impl Frequencies {
    /// Those for sequences of up to `longest` tokens. llama.cpp goes by the size of its
    /// context, not by the length of a sequence.
    pub fn of_context(&self, longest: usize) -> &Tensor {
        match &self.long {
            Some(long) if longest.max(self.served_context) > self.short_context => long,
            _ => &self.short,
        }
    }
}

/// The frozen base model.
#[derive(Debug)]
pub struct Model {
    /// Hyper-parameters.
    pub config: Config,
    /// Number formats.
    pub precision: Precision,
    /// [V, d]
    pub token_embd: Tensor,
    /// One entry per layer.
    pub layers: Vec<Layer>,
    /// [d]
    pub output_norm: Tensor,
    /// [V, d]; the same storage as `token_embd` when tied
    pub output: Linear,
    /// Rotary embedding.
    pub frequencies: Frequencies,
}

impl Model {
    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.token_embd.device()
    }

    /// Logits [R, V] at the batch's selected rows, in `precision.math`.
    ///
    /// `edits` holds one entry per layer; what requires a gradient in it receives one.
    pub fn forward(&self, batch: &Batch, edits: &[LayerEdit]) -> Tensor {
        let shared = Shared::new(self, batch);
        let (entered, x) = self.begin(batch);
        let layers = edits.iter().enumerate().skip(entered);
        let x = layers.fold(x, |x, (l, edit)| {
            self.layer(l, x, batch, &shared, &edit.lora, |z| edit.apply(z))
        });
        self.logits(&x)
    }

    /// Where a forward pass begins: a layer, and the residual stream [T, d] before it.
    pub(crate) fn begin(&self, batch: &Batch) -> (usize, Tensor) {
        match &batch.entry {
            Some((layer, x)) => (*layer, x.shallow_clone()),
            None => (0, self.embed(batch)),
        }
    }

    /// The residual stream [T, d] before `layer`, with no edit below it.
    pub(crate) fn enter(&self, batch: &Batch, layer: usize) -> Tensor {
        self.through(batch, layer, |_, z| z)
    }

    /// As [`forward`](Self::forward) with any edit: `edit` is given a layer and its head
    /// outputs [T, H·D] in `precision.math` (only the selected rows in the last layer).
    pub fn forward_with(&self, batch: &Batch, edit: impl FnMut(usize, Tensor) -> Tensor) -> Tensor {
        self.logits(&self.through(batch, self.layers.len(), edit))
    }

    /// The residual stream behind the first `layers` layers, with any edit of their heads.
    fn through(
        &self,
        batch: &Batch,
        layers: usize,
        mut edit: impl FnMut(usize, Tensor) -> Tensor,
    ) -> Tensor {
        let (shared, none) = (Shared::new(self, batch), LayerLora::default());
        (0..layers).fold(self.embed(batch), |x, l| {
            self.layer(l, x, batch, &shared, &none, |z| edit(l, z))
        })
    }

    /// What the first layer reads, [T, d] in `precision.math`: the norms need it so, and so
    /// the residual stream is kept in it.
    pub(crate) fn embed(&self, batch: &Batch) -> Tensor {
        let x = Tensor::embedding(&self.token_embd, &batch.tokens, -1, false, false);
        scaled(x.to_kind(self.precision.math), self.config.embedding_scale)
    }

    /// The residual stream [T, d] behind layer `l`, for `x` [T, d] before it; behind the last
    /// layer only the selected rows, [R, d].
    pub(crate) fn layer(
        &self,
        l: usize,
        mut x: Tensor,
        batch: &Batch,
        shared: &Shared,
        lora: &LayerLora,
        edit: impl FnOnce(Tensor) -> Tensor,
    ) -> Tensor {
        let (config, layer) = (&self.config, &self.layers[l]);
        let Precision { storage, math } = self.precision;
        let h = self.norm(&x, layer.attn_norm.as_ref(), storage); // [T, d]
        let qkv = layer.attn_qkv.forward(&h, lora.of(Joined::QueryKeyValue));
        let mut z = self.attention(layer, config.layers[l], &qkv, shared); // [T, H·D]
        if l + 1 == self.layers.len() {
            // Nothing mixes positions after the last attention.
            z = z.index_select(0, &batch.rows); // [R, H·D]
            x = x.index_select(0, &batch.rows); // [R, d]
        }
        let z = edit(z).to_kind(storage);
        let y = layer.attn_output.forward(&z, lora.of(Joined::Output));
        let y = self.norm(&y, layer.attn_post_norm.as_ref(), math);
        x = scaled(y, config.residual_scale) + x; // not in place: the norm keeps x
        let h = self.norm(&x, layer.ffn_norm.as_ref(), storage);
        let activation = config.architecture.activation;
        let y = layer.ffn.forward(&h, lora, activation, math);
        let y = self.norm(&y, layer.ffn_post_norm.as_ref(), math);
        scaled(y, config.residual_scale) + x // not in place: the norm keeps x
    }

    /// Logits [·, V] of the residual stream `x` [·, d] behind the last layer.
    pub(crate) fn logits(&self, x: &Tensor) -> Tensor {
        let Precision { storage, math } = self.precision;
        let h = self.norm(x, Some(&self.output_norm), storage);
        let y = self.output.forward(&h, &[]).to_kind(math);
        let y = scaled(y, self.config.logit_scale);
        match self.config.logit_cap {
            Some(cap) => (y / cap).tanh() * cap,
            None => y,
        }
    }

    /// Root mean square of each head's outputs in the unedited model, [L, H] in
    /// `precision.math`.
    pub fn head_rms(&self, batch: &Batch) -> Tensor {
        let (n_head, head_dim) = (self.config.n_head as i64, self.config.head_dim as i64);
        let mut layers = Vec::with_capacity(self.layers.len());
        let _ = no_grad(|| {
            self.forward_with(batch, |_, z| {
                let heads = z.view([-1, n_head, head_dim]);
                let mean_square = heads
                    .square()
                    .mean_dim([0i64, 2].as_slice(), false, z.kind());
                layers.push(mean_square.sqrt());
                z
            })
        });
        Tensor::stack(&layers, 0)
    }

    /// `x` after the norm, if there is one, in format `kind`.
    fn norm(&self, x: &Tensor, weight: Option<&Tensor>, kind: Kind) -> Tensor {
        match weight {
            Some(weight) => rms_norm(x, weight, self.config.rms_eps).to_kind(kind),
            None => x.to_kind(kind),
        }
    }
}

/// x / rms(x) · weight over the last dimension, in the format of `weight`.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let math = weight.kind();
    let y = x.to_kind(math);
    let scale = (y.square().mean_dim(-1, true, math) + eps).rsqrt();
    y * scale * weight
}

/// x · factor
fn scaled(x: Tensor, factor: f64) -> Tensor {
    if factor == 1.0 {
        x
    } else {
        x * factor
    }
}
