//! Small models of other attention forms, for inference alone: what llama.cpp's loaders of
//! these architectures ask for (`src/models/<name>.cpp`).

mod recurrent;
mod transformers;

pub use recurrent::mamba;
pub use transformers::{cohere2, folded, t5};

use crate::tiny::{Tiny, VOCABULARY};

/// A model and what is known of its attention.
pub struct Form {
    /// The model.
    pub tiny: Tiny,
    /// What its attention looks like.
    pub what: &'static str,
    /// Layers with attention and the width of their head outputs.
    pub attention: Vec<(u32, usize)>,
}

const D: usize = 64;
const HEADS: usize = 4;
const HEAD_DIM: usize = D / HEADS;
const FF: usize = 96;
const EXPERTS: usize = 4;

/// Every form.
pub fn all() -> Vec<Form> {
    vec![
        transformers::gpt2(),
        transformers::bloom(),
        transformers::mpt(),
        transformers::gptneox(),
        transformers::falcon(),
        transformers::command_r(),
        transformers::olmoe(),
        transformers::mixtral(),
        transformers::deepseek2(),
        recurrent::qwen3next(),
        recurrent::jamba(),
        recurrent::lfm2(),
        recurrent::granitehybrid(),
        transformers::openelm(),
        transformers::deci(),
        transformers::bert(),
    ]
}

/// Keys and tensors that all have.
fn base(architecture: &str, n_layer: usize, kv_heads: usize) -> Tiny {
    let mut tiny = Tiny::new(architecture, 4);
    tiny.count("context_length", 256);
    tiny.count("block_count", n_layer);
    tiny.count("embedding_length", D);
    tiny.count("feed_forward_length", FF);
    tiny.count("attention.head_count", HEADS);
    tiny.count("attention.head_count_kv", kv_heads);
    tiny.float("attention.layer_norm_rms_epsilon", 1e-5);
    tiny.float("attention.layer_norm_epsilon", 1e-5);
    tiny.random_values("token_embd.weight", &[D, VOCABULARY], 0.0, 1.0);
    tiny.norm("output_norm.weight", D);
    tiny
}

fn each_layer(n_layer: usize) -> Vec<(u32, usize)> {
    (0..n_layer as u32).map(|layer| (layer, D)).collect()
}

fn output(tiny: &mut Tiny) {
    tiny.weight("output.weight", &[D, VOCABULARY], 3.0);
}

/// A norm with a bias.
fn layer_norm(tiny: &mut Tiny, name: &str) {
    tiny.norm(&format!("{name}.weight"), D);
    tiny.bias(&format!("{name}.bias"), D);
}

fn biased(tiny: &mut Tiny, name: &str, dims: &[usize], gain: f32) {
    tiny.weight(&format!("{name}.weight"), dims, gain);
    tiny.bias(&format!("{name}.bias"), dims[1]);
}

/// Query, key, value and output matrices.
fn attention(tiny: &mut Tiny, l: usize, kv_heads: usize) {
    for (what, heads) in [
        ("attn_q", HEADS),
        ("attn_k", kv_heads),
        ("attn_v", kv_heads),
    ] {
        tiny.weight(
            &format!("blk.{l}.{what}.weight"),
            &[D, heads * HEAD_DIM],
            1.5,
        );
    }
    tiny.weight(&format!("blk.{l}.attn_output.weight"), &[D, D], 1.5);
}

/// Gate, up and down matrices.
fn gated(tiny: &mut Tiny, l: usize) {
    tiny.weight(&format!("blk.{l}.ffn_gate.weight"), &[D, FF], 1.5);
    tiny.weight(&format!("blk.{l}.ffn_up.weight"), &[D, FF], 1.0);
    tiny.weight(&format!("blk.{l}.ffn_down.weight"), &[FF, D], 1.0);
}

/// A router and expert matrices.
fn experts(tiny: &mut Tiny, l: usize) {
    tiny.weight(&format!("blk.{l}.ffn_gate_inp.weight"), &[D, EXPERTS], 1.5);
    tiny.weight(
        &format!("blk.{l}.ffn_gate_exps.weight"),
        &[D, FF, EXPERTS],
        1.5,
    );
    tiny.weight(
        &format!("blk.{l}.ffn_up_exps.weight"),
        &[D, FF, EXPERTS],
        1.0,
    );
    tiny.weight(
        &format!("blk.{l}.ffn_down_exps.weight"),
        &[FF, D, EXPERTS],
        1.0,
    );
}

/// Expert matrices that every token uses.
fn shared_experts(tiny: &mut Tiny, l: usize) {
    tiny.weight(&format!("blk.{l}.ffn_gate_shexp.weight"), &[D, FF], 1.5);
    tiny.weight(&format!("blk.{l}.ffn_up_shexp.weight"), &[D, FF], 1.0);
    tiny.weight(&format!("blk.{l}.ffn_down_shexp.weight"), &[FF, D], 1.0);
}

fn expert_keys(tiny: &mut Tiny) {
    tiny.count("expert_count", EXPERTS);
    tiny.count("expert_used_count", 2);
}

fn norms(tiny: &mut Tiny, l: usize, names: &[&str]) {
    for name in names {
        tiny.norm(&format!("blk.{l}.{name}.weight"), D);
    }
}
