//! The reference model: a decoder-only transformer of the Llama family, in tch.
//!
//! Written to be read beside llama.cpp's graph. Shapes stand in the comments:
//! T tokens of all packed sequences, d embedding width, H query heads, K key-value heads,
//! D head width, F feed-forward width, V vocabulary, R selected rows.
//!
//! The weights are frozen: gradients flow through them to the edits only, and reach no
//! layer below the lowest edited one.

use tch::{no_grad, Device, Kind, Tensor};

use super::arithmetic::{optional_norm, scaled};
use super::attention::Attention;
use super::batch::{Batch, Sequence};
use super::change::LayerChange;
use super::config::Config;
use super::layer::Layer;
use super::linear::Linear;
use super::low_rank::{JoinedMatrix, LowRankChanges};
use super::pass_context::PassContext;
use super::precision::Precision;
use super::rotation::Frequencies;

/// The frozen base model.
#[derive(Debug)]
pub struct Model {
    /// What the metadata say about the model.
    pub config: Config,
    /// The number formats of its weights and arithmetic.
    pub precision: Precision,
    /// Embedding of each token, [V, d]
    pub token_embd: Tensor,
    /// One entry per layer.
    pub layers: Vec<Layer>,
    /// Weight of the norm before the output matrix, [d]
    pub output_norm: Tensor,
    /// From the residual stream to logits, [V, d] in `precision.math`: rounded logits would cost
    /// two digits of the loss, and make tokens equally likely that are not. The storage of
    /// `token_embd` when tied
    pub output: Linear,
    /// The frequencies of rotary embedding.
    pub frequencies: Frequencies,
}

impl Model {
    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.token_embd.device()
    }

    /// Says which rows will be served: their context holds the longest of them, and models
    /// with two sets of rotary factors choose by the context. So all rows are turned alike,
    /// whichever batch they are in.
    pub fn serve_rows<'a>(&mut self, rows: impl Iterator<Item = &'a Sequence>) {
        let longest = rows.map(|row| row.tokens.len()).max().unwrap_or(0);
        let context = &mut self.frequencies.served_context;
        *context = longest.max(*context);
    }

    /// Logits [R, V] at the batch's selected rows, in `precision.math`.
    ///
    /// `changes` holds one entry per layer; what requires a gradient in it receives one.
    pub fn forward(&self, batch: &Batch, changes: &[LayerChange]) -> Tensor {
        let pass = self.pass_context(batch);
        let (entered, x) = self.begin(batch);
        let layers = changes.iter().enumerate().skip(entered);
        let x = layers.fold(x, |x, (l, change)| {
            self.changed_layer(l, x, batch, &pass, change)
        });
        self.logits(&x)
    }

    /// What all layers share in a forward pass of `batch`.
    pub(crate) fn pass_context(&self, batch: &Batch) -> PassContext {
        PassContext::new(&self.config, &self.frequencies, self.precision.math, batch)
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
        let (pass, none) = (self.pass_context(batch), LowRankChanges::default());
        (0..layers).fold(self.embed(batch), |x, l| {
            self.layer(l, x, batch, &pass, &none, |z| edit(l, z))
        })
    }

    /// What the first layer reads, [T, d] in `precision.math`: the norms need it so, and so
    /// the residual stream is kept in it.
    fn embed(&self, batch: &Batch) -> Tensor {
        let x = Tensor::embedding(&self.token_embd, &batch.tokens, -1, false, false);
        scaled(x.to_kind(self.precision.math), self.config.embedding_scale)
    }

    /// The residual stream [T, d] behind layer `l` with this change, for `x` [T, d] before it;
    /// behind the last layer only the selected rows, [R, d].
    pub(crate) fn changed_layer(
        &self,
        l: usize,
        x: Tensor,
        batch: &Batch,
        pass: &PassContext,
        change: &LayerChange,
    ) -> Tensor {
        let edit = |z| change.heads.apply(z);
        self.layer(l, x, batch, pass, &change.matrices, edit)
    }

    /// As [`changed_layer`](Self::changed_layer) with any edit of the head outputs.
    fn layer(
        &self,
        l: usize,
        mut x: Tensor,
        batch: &Batch,
        pass: &PassContext,
        matrices: &LowRankChanges,
        edit: impl FnOnce(Tensor) -> Tensor,
    ) -> Tensor {
        let (config, layer) = (&self.config, &self.layers[l]);
        let Precision { storage, math } = self.precision;
        let h = self.norm(&x, layer.attn_norm.as_ref(), storage); // [T, d]
        let changes = matrices.of(JoinedMatrix::QueryKeyValue);
        let qkv = layer.attn_qkv.forward(&h, changes);
        let attention = Attention {
            config,
            layer,
            kind: config.layers[l],
            math,
        };
        let mut z = attention.head_outputs(&qkv, pass); // [T, H·D]
        if l + 1 == self.layers.len() {
            // Nothing mixes positions after the last attention.
            z = z.index_select(0, &batch.rows); // [R, H·D]
            x = x.index_select(0, &batch.rows); // [R, d]
        }
        let z = edit(z).to_kind(storage);
        let y = layer
            .attn_output
            .forward(&z, matrices.of(JoinedMatrix::Output));
        let y = self.norm(&y, layer.attn_post_norm.as_ref(), math);
        x = scaled(y, config.residual_scale) + x; // not in place: the norm keeps x
        let h = self.norm(&x, layer.ffn_norm.as_ref(), math);
        let activation = config.architecture.activation;
        let y = layer.ffn.forward(&h, matrices, activation, self.precision);
        let y = self.norm(&y, layer.ffn_post_norm.as_ref(), math);
        scaled(y, config.residual_scale) + x // not in place: the norm keeps x
    }

    /// Logits [·, V] of the residual stream `x` [·, d] behind the last layer.
    pub(crate) fn logits(&self, x: &Tensor) -> Tensor {
        let h = self.norm(x, Some(&self.output_norm), self.precision.math);
        let y = self.output.forward(&h, &[]);
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
        optional_norm(x, weight, self.config.rms_eps, kind)
    }
}
