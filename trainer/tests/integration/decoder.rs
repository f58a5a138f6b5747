//! Small models of the architectures that can be trained. Which tensors exist follows the
//! trainer's table: where the table is wrong, llama.cpp refuses the file or the logits differ.

use jola_trainer::architectures::{Architecture, Experts, ARCHITECTURES};

use testkit::tiny::{Tiny, VOCABULARY};

/// Sizes of a small model and what is optional in it.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Layers.
    pub n_layer: usize,
    /// d
    pub n_embd: usize,
    /// H
    pub n_head: usize,
    /// K
    pub n_head_kv: usize,
    /// D
    pub head_dim: usize,
    /// Whether optional biases are there.
    pub biased: bool,
    /// Whether query, key and value are one tensor.
    pub joined: bool,
    /// Whether the output is the token embeddings.
    pub tied: bool,
}

impl Shape {
    /// Four query heads on two key-value heads, as wide as the model.
    pub const GQA: Shape = Shape {
        n_layer: 3,
        n_embd: 64,
        n_head: 4,
        n_head_kv: 2,
        head_dim: 16,
        biased: false,
        joined: false,
        tied: false,
    };
}

const FF: usize = 96;
const EXPERTS: usize = 6;

/// The row of `name`.
pub fn row(name: &str) -> &'static Architecture {
    ARCHITECTURES.iter().find(|row| row.name == name).unwrap()
}

/// A model of `architecture` with its usual keys.
pub fn decoder(architecture: &str, shape: Shape, seed: u64) -> Tiny {
    let row = row(architecture);
    let mut tiny = Tiny::new(architecture, seed);
    keys(&mut tiny, row, shape);
    let d = shape.n_embd;
    let unit = if row.embedding_root {
        (d as f32).powf(-0.5)
    } else {
        1.0
    };
    tiny.random_values("token_embd.weight", &[d, VOCABULARY], 0.0, unit);
    if !shape.tied {
        tiny.weight("output.weight", &[d, VOCABULARY], 3.0);
    }
    tiny.norm("output_norm.weight", d);
    for l in 0..shape.n_layer {
        attention(&mut tiny, row, shape, &format!("blk.{l}."));
        feed_forward(&mut tiny, row, shape, &format!("blk.{l}."));
    }
    if shape.biased {
        for name in row.biases.iter().filter(|name| **name == "output") {
            tiny.bias(&format!("{name}.bias"), VOCABULARY);
        }
    }
    tiny
}

fn keys(tiny: &mut Tiny, row: &Architecture, shape: Shape) {
    tiny.count("context_length", 256);
    tiny.count("block_count", shape.n_layer);
    tiny.count("embedding_length", shape.n_embd);
    tiny.count("feed_forward_length", FF);
    tiny.count("attention.head_count", shape.n_head);
    tiny.count("attention.head_count_kv", shape.n_head_kv);
    if shape.head_dim * shape.n_head != shape.n_embd {
        tiny.count("attention.key_length", shape.head_dim);
        tiny.count("attention.value_length", shape.head_dim);
        tiny.count("rope.dimension_count", shape.head_dim);
    }
    tiny.float("attention.layer_norm_rms_epsilon", 1e-5);
    if row.experts == Experts::Always {
        tiny.count("expert_count", EXPERTS);
        tiny.count("expert_used_count", 2);
        tiny.count("expert_feed_forward_length", FF);
    }
    if row.multipliers {
        tiny.float("logit_scale", 0.5);
        tiny.float("residual_scale", 0.7);
        tiny.float("embedding_scale", 1.6);
        tiny.float("attention.scale", 0.4);
    }
}

fn attention(tiny: &mut Tiny, row: &Architecture, shape: Shape, block: &str) {
    let (d, head_dim) = (shape.n_embd, shape.head_dim);
    let [query, key_value] = [shape.n_head, shape.n_head_kv].map(|n| n * head_dim);
    let name = |what: &str| format!("{block}{what}");
    if row.pre_norm {
        tiny.norm(&name("attn_norm.weight"), d);
    }
    if row.post_norm {
        let mean = 1.5 * (shape.n_layer as f32).powf(-0.5);
        tiny.random_values(&name("post_attention_norm.weight"), &[d], mean, 0.3 * mean);
    }
    let widths = match shape.joined {
        true => vec![("attn_qkv", query + 2 * key_value)],
        false => vec![
            ("attn_q", query),
            ("attn_k", key_value),
            ("attn_v", key_value),
        ],
    };
    for (what, width) in widths {
        tiny.weight(&name(&format!("{what}.weight")), &[d, width], 1.5);
        if shape.biased {
            tiny.bias(&name(&format!("{what}.bias")), width);
        }
    }
    use jola_trainer::architectures::QkNorm;
    let norms = match row.qk_norm {
        QkNorm::No => None,
        QkNorm::Head => Some((head_dim, head_dim)),
        QkNorm::Token => Some((query, key_value)),
    };
    if let Some((q, k)) = norms {
        tiny.random_values(&name("attn_q_norm.weight"), &[q], 1.5, 0.5);
        tiny.random_values(&name("attn_k_norm.weight"), &[k], 1.5, 0.5);
    }
    tiny.weight(&name("attn_output.weight"), &[query, d], 1.5);
    bias(tiny, row, shape, block, "attn_output", d);
}

fn feed_forward(tiny: &mut Tiny, row: &Architecture, shape: Shape, block: &str) {
    let d = shape.n_embd;
    let name = |what: &str| format!("{block}{what}.weight");
    if row.pre_norm {
        tiny.norm(&name("ffn_norm"), d);
    }
    if row.post_norm {
        // Small: llama.cpp looks GELU up in a table of half precision, and what that rounds
        // away grows from layer to layer.
        let mean = 0.5 * (shape.n_layer as f32).powf(-0.5);
        tiny.random_values(&name("post_ffw_norm"), &[d], mean, 0.3 * mean);
    }
    if row.experts == Experts::Always {
        return experts(tiny, d, block);
    }
    if row.fused_gate_up {
        tiny.weight(&name("ffn_up"), &[d, 2 * FF], 1.5);
    } else {
        tiny.weight(&name("ffn_gate"), &[d, FF], 1.5);
        tiny.weight(&name("ffn_up"), &[d, FF], 1.0);
        bias(tiny, row, shape, block, "ffn_gate", FF);
        bias(tiny, row, shape, block, "ffn_up", FF);
    }
    tiny.weight(&name("ffn_down"), &[FF, d], 1.0);
    bias(tiny, row, shape, block, "ffn_down", d);
}

/// A router and expert matrices.
fn experts(tiny: &mut Tiny, d: usize, block: &str) {
    let name = |what: &str| format!("{block}{what}.weight");
    tiny.weight(&name("ffn_gate_inp"), &[d, EXPERTS], 1.5);
    tiny.weight(&name("ffn_gate_exps"), &[d, FF, EXPERTS], 1.5);
    tiny.weight(&name("ffn_up_exps"), &[d, FF, EXPERTS], 1.0);
    tiny.weight(&name("ffn_down_exps"), &[FF, d, EXPERTS], 1.0);
}

/// Turns the feed-forward layers of `tiny` into mixtures of experts.
pub fn with_experts(tiny: &mut Tiny, shape: Shape) {
    tiny.count("expert_count", EXPERTS);
    tiny.count("expert_used_count", 2);
    for l in 0..shape.n_layer {
        for what in ["ffn_gate", "ffn_up", "ffn_down"] {
            tiny.drop_tensor(&format!("blk.{l}.{what}.weight"));
        }
        experts(tiny, shape.n_embd, &format!("blk.{l}."));
    }
}

fn bias(tiny: &mut Tiny, row: &Architecture, shape: Shape, block: &str, what: &str, len: usize) {
    if shape.biased && row.biases.contains(&what) {
        tiny.bias(&format!("{block}{what}.bias"), len);
    }
}
