//! Attention in every layer, or in all that have any.

use jola_edit::gguf::{Array, Value};

use super::{attention, base, biased, each_layer, expert_keys, experts, gated, layer_norm, norms};
use super::{output, shared_experts, Form, D, FF, HEADS, HEAD_DIM};
use crate::tiny::Tiny;

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

pub fn gpt2() -> Form {
    let mut tiny = base("gpt2", 2, HEADS);
    tiny.random_values("position_embd.weight", &[D, 256], 0.0, 0.5);
    gpt_layers(&mut tiny, 2);
    Form {
        tiny,
        what: "learned positions",
        attention: each_layer(2),
    }
}

pub fn bloom() -> Form {
    let mut tiny = base("bloom", 2, HEADS);
    layer_norm(&mut tiny, "token_embd_norm");
    gpt_layers(&mut tiny, 2);
    Form {
        tiny,
        what: "ALiBi",
        attention: each_layer(2),
    }
}

pub fn mpt() -> Form {
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

pub fn gptneox() -> Form {
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

pub fn falcon() -> Form {
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

pub fn command_r() -> Form {
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

/// Layers with a sliding window, the last without.
pub fn cohere2() -> Form {
    let mut tiny = base("cohere2", 4, 2);
    tiny.float("logit_scale", 0.5);
    tiny.count("attention.sliding_window", 6);
    for l in 0..4 {
        norms(&mut tiny, l, &["attn_norm"]);
        attention(&mut tiny, l, 2);
        gated(&mut tiny, l);
    }
    Form {
        tiny,
        what: "sliding window",
        attention: each_layer(4),
    }
}

pub fn olmoe() -> Form {
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

pub fn mixtral() -> Form {
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

/// A model that says that the inputs of its output projections are to be transformed, as
/// llama.cpp 0.8.0 reads it.
pub fn folded() -> Tiny {
    let mut tiny = mixtral().tiny;
    let text = |value: &str| Value::String(value.to_owned());
    let names = (0..2).map(|l| format!("blk.{l}.attn_output.weight"));
    for (name, value) in [
        ("version", Value::U32(1)),
        ("block_size", Value::U32(D as u32)),
        ("transform", text("normalized-sylvester-walsh-hadamard")),
        ("axis", text("input-last-dimension")),
        ("sign_mode", text("identity")),
        ("weight_names", Value::Array(Array::String(names.collect()))),
    ] {
        tiny.set_key(&format!("prism.hadamard.{name}"), value);
    }
    tiny
}

pub fn deepseek2() -> Form {
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

pub fn openelm() -> Form {
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

pub fn deci() -> Form {
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

pub fn bert() -> Form {
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
