//! The weights of one layer, and which of its matrices can be adapted.

use tch::{Device, Tensor};

use super::feed_forward::FeedForward;
use super::linear::Linear;
use super::low_rank::JoinedMatrix;

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
    /// What follows attention: one feed-forward layer or a mixture of experts.
    pub ffn: FeedForward,
    /// [d]: on what the feed-forward layer adds
    pub ffn_post_norm: Option<Tensor>,
}

impl Layer {
    /// Where its weights lie.
    pub fn device(&self) -> Device {
        self.attn_output.weight.device()
    }
}

/// A matrix of a layer as the file names it, in the joined matrix that the model has.
#[derive(Debug)]
pub struct AdaptableMatrix<'a> {
    /// Its name without layer and `.weight`.
    pub name: &'a str,
    /// The joined matrix that holds it.
    pub matrix: JoinedMatrix,
    /// The first of its rows in the joined matrix.
    pub start: i64,
    /// Its rows, out.
    pub rows: i64,
    /// Its columns, in.
    pub columns: i64,
}

/// The matrices of a layer that can be changed. Experts' are not among them.
pub fn adaptable_matrices(layer: &Layer) -> Vec<AdaptableMatrix<'_>> {
    let mut joined: Vec<(JoinedMatrix, &Linear)> = vec![
        (JoinedMatrix::QueryKeyValue, &layer.attn_qkv),
        (JoinedMatrix::Output, &layer.attn_output),
    ];
    if let Some((gate_up, down)) = layer.ffn.dense() {
        joined.extend([(JoinedMatrix::GateUp, gate_up), (JoinedMatrix::Down, down)]);
    }
    let mut matrices = Vec::new();
    for (matrix, linear) in joined {
        let mut start = 0;
        for (name, rows) in &linear.parts {
            matrices.push(AdaptableMatrix {
                name,
                matrix,
                start,
                rows: *rows,
                columns: linear.weight.size()[1],
            });
            start += rows;
        }
    }
    matrices
}
