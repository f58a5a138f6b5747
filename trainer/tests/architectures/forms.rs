//! Small models of other attention forms, for inference alone: what llama.cpp's loaders of
//! these architectures ask for (`src/models/<name>.cpp`).

use jola_edit::gguf::{Array, Value};

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
        gpt2(),
        bloom(),
        mpt(),
        gptneox(),
        falcon(),
        command_r(),
        olmoe(),
        mixtral(),
        deepseek2(),
        qwen3next(),
        jamba(),
        lfm2(),
        granitehybrid(),
        openelm(),
        deci(),
        bert(),
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

/// Layers of GPT-2's kind: norms with biases, one matrix for query, key and value.
fn gpt_layers(tiny: &mut Tiny, n_layer: usize) {
    tiny.bias("output_norm.bias", D);
    for l in 0..n_layer {
        let name = |what: &str| format!("blk.{l}.{what}");
        layer_norm(tiny, &name("attn_norm"));
        layer_norm(tiny, &name("ffn_norm"));
        biased(tiny, &name("attn_qkv"), &[D, 3 * D], 1.5);
        biased(tiny, &name("attn_output"), &[D, D], 1.5);
        biased(tiny, &name("ffn_up"), &[D, FF], 1.5);
        biased(tiny, &name("ffn_down"), &[FF, D], 1.0);
    }
}

fn gpt2() -> Form {
    let mut tiny = base("gpt2", 2, HEADS);
    tiny.random_values("position_embd.weight", &[D, 256], 0.0, 0.5);
    gpt_layers(&mut tiny, 2);
    Form {
        tiny,
        what: "learned positions",
        attention: each_layer(2),
    }
}

fn bloom() -> Form {
    let mut tiny = base("bloom", 2, HEADS);
    layer_norm(&mut tiny, "token_embd_norm");
    gpt_layers(&mut tiny, 2);
    Form {
        tiny,
        what: "ALiBi",
        attention: each_layer(2),
    }
}

fn mpt() -> Form {
    let mut tiny = base("mpt", 2, HEADS);
    tiny.float("attention.max_alibi_bias", 8.0);
    tiny.float("attention.clamp_kqv", 2.0);
    gpt_layers(&mut tiny, 2);
    Form {
        tiny,
        what: "ALiBi, clamped values",
        attention: each_layer(2),
    }
}

fn gptneox() -> Form {
    let mut tiny = base("gptneox", 2, HEADS);
    tiny.set("use_parallel_residual", Value::Bool(true));
    tiny.count("rope.dimension_count", HEAD_DIM / 2);
    gpt_layers(&mut tiny, 2);
    output(&mut tiny);
    Form {
        tiny,
        what: "parallel to the feed-forward layer",
        attention: each_layer(2),
    }
}

fn falcon() -> Form {
    let mut tiny = base("falcon", 2, 1);
    tiny.bias("output_norm.bias", D);
    for l in 0..2 {
        let name = |what: &str| format!("blk.{l}.{what}");
        layer_norm(&mut tiny, &name("attn_norm"));
        tiny.weight(&name("attn_qkv.weight"), &[D, D + 2 * HEAD_DIM], 1.5);
        tiny.weight(&name("attn_output.weight"), &[D, D], 1.5);
        tiny.weight(&name("ffn_up.weight"), &[D, FF], 1.5);
        tiny.weight(&name("ffn_down.weight"), &[FF, D], 1.0);
    }
    Form {
        tiny,
        what: "parallel, multi-query",
        attention: each_layer(2),
    }
}

fn command_r() -> Form {
    let mut tiny = base("command-r", 2, 2);
    tiny.float("logit_scale", 0.5);
    for l in 0..2 {
        norms(&mut tiny, l, &["attn_norm"]);
        attention(&mut tiny, l, 2);
        gated(&mut tiny, l);
    }
    Form {
        tiny,
        what: "parallel, grouped queries",
        attention: each_layer(2),
    }
}

fn olmoe() -> Form {
    let mut tiny = base("olmoe", 2, HEADS);
    expert_keys(&mut tiny);
    output(&mut tiny);
    for l in 0..2 {
        norms(
            &mut tiny,
            l,
            &["attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm"],
        );
        attention(&mut tiny, l, HEADS);
        experts(&mut tiny, l);
    }
    Form {
        tiny,
        what: "mixture of experts",
        attention: each_layer(2),
    }
}

fn mixtral() -> Form {
    let mut tiny = base("llama", 2, 2);
    expert_keys(&mut tiny);
    for l in 0..2 {
        norms(&mut tiny, l, &["attn_norm", "ffn_norm"]);
        attention(&mut tiny, l, 2);
        experts(&mut tiny, l);
    }
    Form {
        tiny,
        what: "mixture of experts (Mixtral)",
        attention: each_layer(2),
    }
}

fn deepseek2() -> Form {
    let (query_rank, kv_rank, rope, plain, value) = (24, 32, 8, 16, 12);
    let mut tiny = base("deepseek2", 2, 1);
    tiny.count("attention.q_lora_rank", query_rank);
    tiny.count("attention.kv_lora_rank", kv_rank);
    tiny.count("attention.key_length", kv_rank + rope);
    tiny.count("attention.value_length", kv_rank);
    tiny.count("attention.key_length_mla", plain + rope);
    tiny.count("attention.value_length_mla", value);
    tiny.count("rope.dimension_count", rope);
    tiny.count("leading_dense_block_count", 1);
    tiny.count("expert_feed_forward_length", FF);
    tiny.count("expert_shared_count", 1);
    expert_keys(&mut tiny);
    for l in 0..2 {
        norms(&mut tiny, l, &["attn_norm", "ffn_norm"]);
        let name = |what: &str| format!("blk.{l}.{what}.weight");
        tiny.norm(&name("attn_q_a_norm"), query_rank);
        tiny.norm(&name("attn_kv_a_norm"), kv_rank);
        tiny.weight(&name("attn_q_a"), &[D, query_rank], 1.5);
        tiny.weight(
            &name("attn_q_b"),
            &[query_rank, HEADS * (plain + rope)],
            1.5,
        );
        tiny.weight(&name("attn_kv_a_mqa"), &[D, kv_rank + rope], 1.5);
        tiny.weight(&name("attn_k_b"), &[plain, kv_rank, HEADS], 1.5);
        tiny.weight(&name("attn_v_b"), &[kv_rank, value, HEADS], 1.5);
        tiny.weight(&name("attn_output"), &[HEADS * value, D], 1.5);
    }
    gated(&mut tiny, 0);
    experts(&mut tiny, 1);
    shared_experts(&mut tiny, 1);
    let attention = vec![(0, HEADS * value), (1, HEADS * value)];
    Form {
        tiny,
        what: "latent attention (MLA)",
        attention,
    }
}

fn qwen3next() -> Form {
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

/// Key-value heads by layer: none but in layer 1.
fn only_layer_1(tiny: &mut Tiny, n_layer: usize, kv_heads: u32) {
    let heads = (0..n_layer)
        .map(|l| if l == 1 { kv_heads } else { 0 })
        .collect();
    tiny.set("attention.head_count_kv", Value::Array(Array::U32(heads)));
}

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

fn jamba() -> Form {
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

fn lfm2() -> Form {
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

fn granitehybrid() -> Form {
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

/// Query heads by layer.
fn heads_by_layer(tiny: &mut Tiny, query: &[u32], key_value: &[u32]) {
    let list = |heads: &[u32]| Value::Array(Array::U32(heads.to_vec()));
    tiny.set("attention.head_count", list(query));
    tiny.set("attention.head_count_kv", list(key_value));
    for name in [
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
    ] {
        tiny.count(name, HEAD_DIM);
    }
}

fn openelm() -> Form {
    let (query, key_value) = ([2, 4, 6], [1, 2, 3]);
    let mut tiny = base("openelm", 3, 2);
    heads_by_layer(&mut tiny, &query, &key_value);
    let widths = vec![FF as u32; 3];
    tiny.set("feed_forward_length", Value::Array(Array::U32(widths)));
    let mut attention = Vec::new();
    for l in 0..3 {
        let (query, key_value) = (query[l] as usize, key_value[l] as usize);
        norms(&mut tiny, l, &["attn_norm", "ffn_norm"]);
        gated(&mut tiny, l);
        let name = |what: &str| format!("blk.{l}.{what}.weight");
        let all = (query + 2 * key_value) * HEAD_DIM;
        tiny.weight(&name("attn_qkv"), &[D, all], 1.5);
        tiny.norm(&name("attn_q_norm"), HEAD_DIM);
        tiny.norm(&name("attn_k_norm"), HEAD_DIM);
        tiny.weight(&name("attn_output"), &[query * HEAD_DIM, D], 1.5);
        attention.push((l as u32, query * HEAD_DIM));
    }
    Form {
        tiny,
        what: "other head counts in each layer",
        attention,
    }
}

fn deci() -> Form {
    // Layer 1 has no attention, layer 3 only a matrix in its place.
    let (query, key_value) = ([4, 0, 2, 4], [2, 0, 1, 0]);
    let mut tiny = base("deci", 4, 2);
    heads_by_layer(&mut tiny, &query, &key_value);
    let widths = vec![FF as u32; 4];
    tiny.set("feed_forward_length", Value::Array(Array::U32(widths)));
    let mut attention = Vec::new();
    for l in 0..4 {
        let (query, key_value) = (query[l] as usize, key_value[l] as usize);
        norms(&mut tiny, l, &["ffn_norm"]);
        gated(&mut tiny, l);
        let name = |what: &str| format!("blk.{l}.{what}.weight");
        if query > 0 {
            norms(&mut tiny, l, &["attn_norm"]);
            tiny.weight(&name("attn_output"), &[query * HEAD_DIM, D], 1.5);
        }
        if key_value > 0 {
            tiny.weight(&name("attn_q"), &[D, query * HEAD_DIM], 1.5);
            tiny.weight(&name("attn_k"), &[D, key_value * HEAD_DIM], 1.5);
            tiny.weight(&name("attn_v"), &[D, key_value * HEAD_DIM], 1.5);
            attention.push((l as u32, query * HEAD_DIM));
        }
    }
    Form {
        tiny,
        what: "layers without attention",
        attention,
    }
}

fn bert() -> Form {
    let mut tiny = base("bert", 2, HEADS);
    tiny.drop_tensor("output_norm.weight");
    tiny.set("attention.causal", Value::Bool(false));
    tiny.set_key("tokenizer.ggml.token_type_count", Value::U32(2));
    tiny.random_values("position_embd.weight", &[D, 256], 0.0, 0.5);
    tiny.random_values("token_types.weight", &[D, 2], 0.0, 0.5);
    layer_norm(&mut tiny, "token_embd_norm");
    for l in 0..2 {
        attention(&mut tiny, l, HEADS);
        let name = |what: &str| format!("blk.{l}.{what}");
        layer_norm(&mut tiny, &name("attn_output_norm"));
        layer_norm(&mut tiny, &name("layer_output_norm"));
        biased(&mut tiny, &name("ffn_up"), &[D, FF], 1.5);
        biased(&mut tiny, &name("ffn_down"), &[FF, D], 1.0);
    }
    Form {
        tiny,
        what: "encoder, without a cache",
        attention: each_layer(2),
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

/// An encoder and a decoder that looks at it.
pub fn t5() -> Tiny {
    let mut tiny = base("t5", 2, HEADS);
    tiny.drop_tensor("output_norm.weight");
    tiny.count("attention.relative_buckets_count", 8);
    tiny.count("attention.key_length", HEAD_DIM);
    tiny.count("attention.value_length", HEAD_DIM);
    tiny.count("decoder_start_token_id", 0);
    for side in ["enc", "dec"] {
        tiny.norm(&format!("{side}.output_norm.weight"), D);
        for l in 0..2 {
            let name = |what: &str| format!("{side}.blk.{l}.{what}.weight");
            let kinds: &[&str] = if side == "enc" {
                &["attn"]
            } else {
                &["attn", "cross_attn"]
            };
            for kind in kinds {
                tiny.norm(&name(&format!("{kind}_norm")), D);
                for what in ["q", "k", "v", "o"] {
                    tiny.weight(&name(&format!("{kind}_{what}")), &[D, D], 1.0);
                }
            }
            tiny.random_values(&name("attn_rel_b"), &[HEADS, 8], 0.0, 1.0);
            tiny.norm(&name("ffn_norm"), D);
            tiny.weight(&name("ffn_up"), &[D, FF], 1.0);
            tiny.weight(&name("ffn_down"), &[FF, D], 1.0);
        }
    }
    tiny
}
