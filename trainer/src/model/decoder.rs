//! The reference model: a decoder-only transformer of the Llama family, in tch.
//!
//! Written to be read beside llama.cpp's graph. Shapes stand in the comments:
//! T tokens of all packed sequences, d embedding width, H query heads, K key-value heads,
//! D head width, F feed-forward width, V vocabulary, R selected rows.
//!
//! The weights are frozen: gradients flow through them to the edits only, and reach no
//! layer below the lowest edited one.

use std::ops::Range;

use tch::{no_grad, Device, Kind, Tensor};

use super::arithmetic::{optional_norm, scaled};
use super::attention::Attention;
use super::batch::{Batch, Sequence};
use super::change::LayerChange;
use super::config::Config;
use super::layer::Layer;
use super::low_rank::{JoinedMatrix, LowRankChanges};
use super::pass_context::{PassContext, PassContexts};
use super::precision::Precision;
use super::rotation::Frequencies;
use super::weight::Weight;

/// The frozen base model.
#[derive(Debug)]
pub struct Model {
    /// What the metadata say about the model.
    pub config: Config,
    /// The number formats of its weights and arithmetic.
    pub precision: Precision,
    /// Embedding of each token, [V, d]
    pub token_embd: Weight,
    /// One entry per layer.
    pub layers: Vec<Layer>,
    /// Weight of the norm before the output matrix, [d]
    pub output_norm: Tensor,
    /// From the residual stream to logits.
    pub output: Output,
    /// The frequencies of rotary embedding.
    pub frequencies: Frequencies,
    /// Whether the attention of all sequences is one call, with padding: quicker on a GPU, where
    /// a call costs more than padding. On a CPU it is the other way round.
    pub together: bool,
}

/// The output matrix and what is added to its product.
#[derive(Debug)]
pub struct Output {
    /// [V, d] in `precision.math`: rounded logits would cost two digits of the loss, and make
    /// tokens equally likely that are not; `None` where it is the token embeddings
    pub matrix: Option<Weight>,
    /// [V]
    pub bias: Option<Tensor>,
}

impl Model {
    /// The device that holds the token embeddings and what is trained.
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
        self.head().logits(&self.residual(batch, changes))
    }

    /// The residual stream [R, d] behind the last layer at the batch's selected rows.
    pub(crate) fn residual(&self, batch: &Batch, changes: &[LayerChange]) -> Tensor {
        let pass = self.pass_context(batch);
        let (entered, x) = self.begin(batch);
        let layers = changes.iter().enumerate().skip(entered);
        layers.fold(x, |x, (l, change)| {
            self.changed_layer(l, x, batch, &pass, change)
        })
    }

    /// What all layers share in a forward pass of `batch`.
    pub(crate) fn pass_context(&self, batch: &Batch) -> PassContexts {
        let Precision {
            attention, math, ..
        } = self.precision;
        let devices = self.layers.iter().map(Layer::device);
        PassContexts::new(devices, |device| {
            PassContext::new(
                &self.config,
                &self.frequencies,
                [attention, math],
                batch,
                self.together,
                device,
            )
        })
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
        self.head()
            .logits(&self.through(batch, self.layers.len(), edit))
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
        let x = self.token_embd.rows(&batch.tokens);
        scaled(x.to_kind(self.precision.math), self.config.embedding_scale)
    }

    /// The residual stream [T, d] behind layer `l` with this change, for `x` [T, d] before it;
    /// behind the last layer only the selected rows, [R, d].
    pub(crate) fn changed_layer(
        &self,
        l: usize,
        x: Tensor,
        batch: &Batch,
        pass: &PassContexts,
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
        pass: &PassContexts,
        matrices: &LowRankChanges,
        edit: impl FnOnce(Tensor) -> Tensor,
    ) -> Tensor {
        let (config, layer) = (&self.config, &self.layers[l]);
        let Precision { storage, math, .. } = self.precision;
        let device = layer.device();
        x = x.to_device(device);
        let h = self.norm(&x, layer.attn_norm.as_ref(), storage); // [T, d]
        let changes = matrices.of(JoinedMatrix::QueryKeyValue);
        let qkv = layer.attn_qkv.forward(&h, changes);
        let attention = Attention {
            config,
            layer,
            kind: config.layers[l],
            precision: self.precision,
        };
        let mut z = attention.head_outputs(&qkv, pass.on(device)); // [T, H·D]
        if l + 1 == self.layers.len() {
            // Nothing mixes positions after the last attention.
            let rows = batch.rows.to_device(device);
            z = z.index_select(0, &rows); // [R, H·D]
            x = x.index_select(0, &rows); // [R, d]
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

    /// What makes logits of the residual stream behind the last layer.
    pub(crate) fn head(&self) -> Head<'_> {
        let matrix = self.output.matrix.as_ref().unwrap_or(&self.token_embd);
        Head {
            model: self,
            matrix: matrix.dense(),
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
                layers.push(mean_square.sqrt().to_device(self.device()));
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

/// Logits are made of so many numbers at a time (64 MiB of float32): with a vocabulary of
/// 150,000 they would otherwise take more memory than all layers.
const LOGITS_AT_ONCE: i64 = 1 << 24;

/// The last norm and the output matrix, dense.
pub(crate) struct Head<'a> {
    model: &'a Model,
    /// [V, d]
    matrix: Tensor,
}

impl Head<'_> {
    /// Logits [·, V] of the residual stream `x` [·, d] behind the last layer.
    pub fn logits(&self, x: &Tensor) -> Tensor {
        let (config, math) = (&self.model.config, self.model.precision.math);
        let x = x.to_device(self.matrix.device());
        let h = self.model.norm(&x, Some(&self.model.output_norm), math);
        let y = h.linear(&self.matrix, self.model.output.bias.as_ref());
        let y = scaled(y, config.logit_scale);
        match config.logit_cap {
            Some(cap) => (y / cap).tanh() * cap,
            None => y,
        }
    }

    /// `rows` in pieces whose logits are made at a time.
    pub fn pieces(&self, rows: i64) -> impl Iterator<Item = Range<i64>> {
        let at_once = rows_at_once(self.matrix.size()[0]);
        let starts = (0..rows).step_by(at_once as usize);
        starts.map(move |start| start..rows.min(start + at_once))
    }
}

/// How many rows' logits are made at a time.
pub(crate) fn rows_at_once(n_vocab: i64) -> i64 {
    (LOGITS_AT_ONCE / n_vocab.max(1)).max(1)
}
