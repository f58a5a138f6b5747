//! The reference model: a decoder-only transformer of the Llama family, in tch.
//!
//! Written to be read beside llama.cpp's graph. Shapes stand in the comments:
//! T tokens of all packed sequences, d embedding width, H query heads, K key-value heads,
//! D head width, F feed-forward width, V vocabulary, R selected rows.
//!
//! The weights are frozen: gradients flow through them to the edits only, and reach no
//! layer below the lowest edited one.

use tch::{Device, Kind, Tensor};

use crate::batch::Batch;
use crate::config::{Config, RopePairs};
use crate::edits::LayerEdit;

/// Number formats of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Weights and activations.
    pub storage: Kind,
    /// Edits, norms, rotations and loss.
    pub math: Kind,
}

impl Precision {
    /// float32 throughout.
    pub const F32: Precision = Precision { storage: Kind::Float, math: Kind::Float };
    /// bfloat16 weights and activations, float32 arithmetic around them.
    pub const BF16: Precision = Precision { storage: Kind::BFloat16, math: Kind::Float };
    /// float64 throughout: for checks of gradients.
    pub const F64: Precision = Precision { storage: Kind::Double, math: Kind::Double };

    /// The name used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self.storage {
            Kind::BFloat16 => "bf16",
            Kind::Double => "f64",
            _ => "f32",
        }
    }
}

/// Frozen weights of one layer. Matrices are [out, in] as in the file; those that read
/// the same input are joined along `out`.
#[derive(Debug)]
pub struct Layer {
    /// [d]
    pub attn_norm: Tensor,
    /// [(H + 2K)·D, d]: query, key and value heads
    pub attn_qkv: Tensor,
    /// [d, H·D]: W_O
    pub attn_output: Tensor,
    /// [d]
    pub ffn_norm: Tensor,
    /// [2F, d]: gate, then up
    pub ffn_gate_up: Tensor,
    /// [d, F]
    pub ffn_down: Tensor,
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
    pub output: Tensor,
    /// [D/2], float64: angle of pair i at position 1
    pub rope_frequencies: Tensor,
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
        let rotation = self.rotation(&batch.positions);
        let mut x = Tensor::embedding(&self.token_embd, &batch.tokens, -1, false, false); // [T, d]
        let last = self.layers.len() - 1;
        for (l, (layer, edit)) in self.layers.iter().zip(edits).enumerate() {
            let h = self.rms_norm(&x, &layer.attn_norm); // [T, d]
            let mut z = self.attention(layer, &h, &batch.lengths, &rotation); // [T, H·D]
            if l == last {
                // Nothing mixes positions after the last attention.
                z = z.index_select(0, &batch.rows); // [R, H·D]
                x = x.index_select(0, &batch.rows); // [R, d]
            }
            let z = edit.apply(z);
            x = x + linear(&z, &layer.attn_output);
            let h = self.rms_norm(&x, &layer.ffn_norm);
            x = x + feed_forward(layer, &h);
        }
        let h = self.rms_norm(&x, &self.output_norm);
        linear(&h, &self.output).to_kind(self.precision.math)
    }

    /// Head outputs [T, H·D] before W_O, for input `h` [T, d].
    fn attention(&self, layer: &Layer, h: &Tensor, lengths: &[i64], rotation: &Tensor) -> Tensor {
        let Config { n_head, n_head_kv, head_dim, .. } = self.config;
        let (n_head, n_head_kv, head_dim) = (n_head as i64, n_head_kv as i64, head_dim as i64);
        let qkv = linear(h, &layer.attn_qkv).view([-1, n_head + 2 * n_head_kv, head_dim]);
        let parts = qkv.split_with_sizes([n_head + n_head_kv, n_head_kv], 1);
        let qk = self.rotate(&parts[0], rotation); // [T, H + K, D]
        let qk = qk.split_with_sizes([n_head, n_head_kv], 1);
        // Sequences do not see each other: one causal attention each, [1, H, t, D].
        let by_sequence = |tensor: &Tensor| -> Vec<Tensor> {
            let heads_first = tensor.transpose(0, 1).unsqueeze(0);
            heads_first.split_with_sizes(lengths, 2)
        };
        let (q, k, v) = (by_sequence(&qk[0]), by_sequence(&qk[1]), by_sequence(&parts[1]));
        let z: Vec<Tensor> = q
            .iter()
            .zip(k.iter().zip(&v))
            .map(|(q, (k, v))| {
                let gqa = n_head != n_head_kv;
                Tensor::scaled_dot_product_attention::<Tensor>(q, k, v, None, 0.0, true, None, gqa)
            })
            .collect();
        let z = Tensor::cat(&z, 2); // [1, H, T, D]
        z.squeeze_dim(0).transpose(0, 1).reshape([-1, n_head * head_dim])
    }

    /// e^(i·position·frequency), complex [T, 1, D/2].
    fn rotation(&self, positions: &Tensor) -> Tensor {
        let angles = positions.to_kind(Kind::Double).unsqueeze(1) * self.rope_frequencies.unsqueeze(0);
        let complex = match self.precision.math {
            Kind::Double => Kind::ComplexDouble,
            _ => Kind::ComplexFloat,
        };
        Tensor::polar(&angles.ones_like(), &angles).unsqueeze(1).to_kind(complex)
    }

    /// Rotary position embedding of heads [T, n, D]: each pair is a complex number.
    fn rotate(&self, heads: &Tensor, rotation: &Tensor) -> Tensor {
        let half = self.config.head_dim as i64 / 2;
        let (n_token, n) = (heads.size()[0], heads.size()[1]);
        let x = heads.to_kind(self.precision.math);
        let pairs = match self.config.rope_pairs {
            RopePairs::Adjacent => x.reshape([n_token, n, half, 2]),
        };
        let rotated = pairs.view_as_complex() * rotation;
        rotated.view_as_real().reshape(heads.size()).to_kind(self.precision.storage)
    }

    /// x / rms(x) · weight over the last dimension.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let math = self.precision.math;
        let x = x.to_kind(math);
        let scale = (x.square().mean_dim(-1, true, math) + self.config.rms_eps).rsqrt();
        (x * scale * weight).to_kind(self.precision.storage)
    }
}

/// SwiGLU: W_down (silu(W_gate h) ⊙ W_up h).
fn feed_forward(layer: &Layer, h: &Tensor) -> Tensor {
    let gate_up = linear(h, &layer.ffn_gate_up).chunk(2, -1); // 2 × [·, F]
    linear(&(gate_up[0].silu() * &gate_up[1]), &layer.ffn_down)
}

/// x [·, in] times weight [out, in], transposed.
fn linear(x: &Tensor, weight: &Tensor) -> Tensor {
    x.linear::<Tensor>(weight, None)
}
