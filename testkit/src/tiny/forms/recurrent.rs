//! Attention beside recurrent layers.

use jola_edit::gguf::{Array, Value};

use super::{attention, base, biased, expert_keys, experts, gated, norms, shared_experts};
use super::{Form, D, FF, HEAD_DIM};
use crate::tiny::Tiny;

/// Sizes of a Mamba layer.
const INNER: usize = 2 * D;
const STATE: usize = 8;
const RANK: usize = 4;
const KERNEL: usize = 4;

fn mamba_keys(tiny: &mut Tiny) {
    tiny.count("ssm.conv_kernel", KERNEL);
    tiny.count("ssm.inner_size", INNER);
    tiny.count("ssm.state_size", STATE);
    tiny.count("ssm.time_step_rank", RANK);
}

fn mamba_layer(tiny: &mut Tiny, l: usize) {
    let name = |what: &str| format!("blk.{l}.{what}");
    tiny.weight(&name("ssm_in.weight"), &[D, 2 * INNER], 1.0);
    biased(tiny, &name("ssm_conv1d"), &[KERNEL, INNER], 1.0);
    tiny.weight(&name("ssm_x.weight"), &[INNER, RANK + 2 * STATE], 1.0);
    biased(tiny, &name("ssm_dt"), &[RANK, INNER], 1.0);
    tiny.random_values(&name("ssm_a"), &[STATE, INNER], -1.0, 0.2);
    tiny.random_values(&name("ssm_d"), &[INNER], 1.0, 0.2);
    tiny.weight(&name("ssm_out.weight"), &[INNER, D], 1.0);
}

/// Key-value heads by layer: none but in layer 1.
fn only_layer_1(tiny: &mut Tiny, n_layer: usize, kv_heads: u32) {
    let heads = (0..n_layer)
        .map(|l| if l == 1 { kv_heads } else { 0 })
        .collect();
    tiny.set("attention.head_count_kv", Value::Array(Array::U32(heads)));
}

pub fn qwen3next() -> Form {
    // Linear attention: key heads, value heads, width of each.
    let (keys, values, state, kernel) = (2, 4, 8, 4);
    let mut tiny = base("qwen3next", 4, 2);
    tiny.count("attention.key_length", HEAD_DIM);
    tiny.count("attention.value_length", HEAD_DIM);
    tiny.count("rope.dimension_count", HEAD_DIM / 2);
    tiny.count("ssm.conv_kernel", kernel);
    tiny.count("ssm.state_size", state);
    tiny.count("ssm.group_count", keys);
    tiny.count("ssm.time_step_rank", values);
    tiny.count("ssm.inner_size", values * state);
    tiny.count("expert_feed_forward_length", FF);
    tiny.count("expert_shared_feed_forward_length", FF);
    expert_keys(&mut tiny);
    for l in 0..4 {
        norms(&mut tiny, l, &["attn_norm", "post_attention_norm"]);
        experts(&mut tiny, l);
        shared_experts(&mut tiny, l);
        let name = |what: &str| format!("blk.{l}.{what}");
        tiny.random_values(&name("ffn_gate_inp_shexp.weight"), &[D], 0.0, 0.2);
        if l == 3 {
            attention(&mut tiny, l, 2);
            tiny.drop_tensor(&name("attn_q.weight"));
            tiny.weight(&name("attn_q.weight"), &[D, 2 * D], 1.5); // queries and gates
            tiny.norm(&name("attn_q_norm.weight"), HEAD_DIM);
            tiny.norm(&name("attn_k_norm.weight"), HEAD_DIM);
            continue;
        }
        let (key, value) = (keys * state, values * state);
        tiny.weight(&name("attn_qkv.weight"), &[D, 2 * key + value], 1.5);
        tiny.weight(&name("attn_gate.weight"), &[D, value], 1.5);
        tiny.weight(&name("ssm_conv1d.weight"), &[kernel, 2 * key + value], 1.0);
        tiny.bias(&name("ssm_dt.bias"), values);
        tiny.random_values(&name("ssm_a"), &[values], -1.0, 0.2);
        tiny.weight(&name("ssm_ba.weight"), &[D, 2 * values], 1.0);
        tiny.norm(&name("ssm_norm.weight"), state);
        tiny.weight(&name("ssm_out.weight"), &[value, D], 1.5);
    }
    Form {
        tiny,
        what: "gated attention beside linear attention",
        attention: vec![(3, D)],
    }
}

pub fn jamba() -> Form {
    let mut tiny = base("jamba", 3, 2);
    only_layer_1(&mut tiny, 3, 2);
    mamba_keys(&mut tiny);
    for l in 0..3 {
        norms(&mut tiny, l, &["attn_norm", "ffn_norm"]);
        gated(&mut tiny, l);
        if l == 1 {
            attention(&mut tiny, l, 2);
            continue;
        }
        mamba_layer(&mut tiny, l);
        for (what, width) in [("dt", RANK), ("b", STATE), ("c", STATE)] {
            tiny.norm(&format!("blk.{l}.ssm_{what}_norm.weight"), width);
        }
    }
    Form {
        tiny,
        what: "one layer among Mamba layers",
        attention: vec![(1, D)],
    }
}

pub fn lfm2() -> Form {
    let kernel = 3;
    let mut tiny = base("lfm2", 3, 2);
    only_layer_1(&mut tiny, 3, 2);
    tiny.count("shortconv.l_cache", kernel);
    tiny.drop_tensor("output_norm.weight");
    tiny.norm("token_embd_norm.weight", D);
    for l in 0..3 {
        norms(&mut tiny, l, &["attn_norm", "ffn_norm"]);
        gated(&mut tiny, l);
        let name = |what: &str| format!("blk.{l}.{what}.weight");
        if l == 1 {
            attention(&mut tiny, l, 2);
            tiny.norm(&name("attn_q_norm"), HEAD_DIM);
            tiny.norm(&name("attn_k_norm"), HEAD_DIM);
            continue;
        }
        tiny.weight(&name("shortconv.conv"), &[kernel, D], 1.0);
        tiny.weight(&name("shortconv.in_proj"), &[D, 3 * D], 1.0);
        tiny.weight(&name("shortconv.out_proj"), &[D, D], 1.0);
    }
    Form {
        tiny,
        what: "one layer among short convolutions",
        attention: vec![(1, D)],
    }
}

pub fn granitehybrid() -> Form {
    let (inner, state, heads, groups, kernel) = (2 * D, 16, 8, 2, 4);
    let mut tiny = base("granitehybrid", 3, 2);
    only_layer_1(&mut tiny, 3, 2);
    tiny.count("ssm.conv_kernel", kernel);
    tiny.count("ssm.inner_size", inner);
    tiny.count("ssm.state_size", state);
    tiny.count("ssm.time_step_rank", heads);
    tiny.count("ssm.group_count", groups);
    tiny.float("logit_scale", 0.5);
    for l in 0..3 {
        norms(&mut tiny, l, &["attn_norm", "ffn_norm"]);
        gated(&mut tiny, l);
        if l == 1 {
            attention(&mut tiny, l, 2);
            continue;
        }
        let name = |what: &str| format!("blk.{l}.{what}");
        let convolved = inner + 2 * groups * state;
        tiny.weight(&name("ssm_in.weight"), &[D, inner + convolved + heads], 1.0);
        biased(&mut tiny, &name("ssm_conv1d"), &[kernel, convolved], 1.0);
        tiny.bias(&name("ssm_dt.bias"), heads);
        tiny.random_values(&name("ssm_a"), &[1, heads], -1.0, 0.2);
        tiny.random_values(&name("ssm_d"), &[1, heads], 1.0, 0.2);
        tiny.random_values(
            &name("ssm_norm.weight"),
            &[inner / groups, groups],
            1.0,
            0.2,
        );
        tiny.weight(&name("ssm_out.weight"), &[inner, D], 1.0);
    }
    Form {
        tiny,
        what: "one layer among Mamba-2 layers",
        attention: vec![(1, D)],
    }
}

/// Nothing but recurrent layers.
pub fn mamba() -> Tiny {
    let mut tiny = base("mamba", 2, 0);
    tiny.count("attention.head_count", 0);
    mamba_keys(&mut tiny);
    for l in 0..2 {
        norms(&mut tiny, l, &["attn_norm"]);
        mamba_layer(&mut tiny, l);
    }
    tiny
}
