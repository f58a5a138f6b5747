//! The reference model computes what llama.cpp computes, for each architecture and layout.

use jola_edit::gguf::{Array, Value};

use crate::compare::Pair;
use crate::decoder::{decoder, with_experts, Shape};
use crate::tiny::Tiny;

fn check(tiny: &Tiny, what: &str) {
    Pair::new(tiny).assert_equal(&format!("{} {what}", tiny.architecture));
}

/// All layouts that an architecture can have.
fn layouts(architecture: &str) {
    // Where llama.cpp's loader wants H·D = d.
    let wide = !matches!(architecture, "qwen2" | "phi3" | "olmo2");
    let ties = !matches!(architecture, "olmo2");
    let unties = architecture != "gemma2";
    let base = Shape {
        tied: !unties,
        n_layer: layers(architecture),
        ..Shape::GQA
    };
    let mut shapes = vec![
        ("GQA", base),
        (
            "MHA",
            Shape {
                n_head_kv: 4,
                ..base
            },
        ),
        (
            "MQA",
            Shape {
                n_head_kv: 1,
                ..base
            },
        ),
        (
            "with biases",
            Shape {
                biased: true,
                ..base
            },
        ),
        (
            "joined qkv",
            Shape {
                joined: true,
                ..base
            },
        ),
        (
            "joined qkv with biases",
            Shape {
                joined: true,
                biased: true,
                ..base
            },
        ),
    ];
    if wide {
        shapes.push((
            "wide heads",
            Shape {
                head_dim: 32,
                ..base
            },
        ));
        shapes.push((
            "narrow heads",
            Shape {
                head_dim: 8,
                ..base
            },
        ));
    }
    if ties && unties {
        shapes.push(("tied", Shape { tied: true, ..base }));
    }
    for (seed, (what, shape)) in (0..).zip(shapes) {
        check(&decoder(architecture, shape, seed), what);
    }
}

/// As many layers as it takes to see every kind of layer.
fn layers(architecture: &str) -> usize {
    match architecture {
        "gemma3" => 7,
        "olmo2" | "smollm3" => 5,
        _ => 3,
    }
}

/// A model with every kind of layer.
pub fn usual(architecture: &str) -> Tiny {
    let shape = Shape {
        n_layer: layers(architecture),
        ..Shape::GQA
    };
    let tied = architecture == "gemma2";
    decoder(architecture, Shape { tied, ..shape }, 77)
}

/// Adds YaRN: an original context of 16 tokens, stretched four times.
pub fn yarn(tiny: &mut Tiny) {
    tiny.text("rope.scaling.type", "yarn");
    tiny.float("rope.scaling.factor", 4.0);
    tiny.count("rope.scaling.original_context_length", 16);
}

/// Adds factors for short and for long contexts.
pub fn longrope(tiny: &mut Tiny, original_context: usize) {
    tiny.text("rope.scaling.type", "longrope");
    tiny.count("rope.scaling.original_context_length", original_context);
    tiny.float("rope.scaling.attn_factor", 1.19);
    let factors = |step: f32| (0..8).map(|i| 1.0 + step * i as f32).collect();
    tiny.values("rope_factors_short.weight", &[8], factors(0.1));
    tiny.values("rope_factors_long.weight", &[8], factors(1.5));
}

#[test]
fn llama_layouts() {
    layouts("llama");
}

#[test]
fn qwen2_layouts() {
    layouts("qwen2");
}

#[test]
fn qwen3_layouts() {
    layouts("qwen3");
}

#[test]
fn qwen3moe_layouts() {
    layouts("qwen3moe");
}

#[test]
fn gemma2_layouts() {
    layouts("gemma2");
}

#[test]
fn gemma3_layouts() {
    layouts("gemma3");
}

#[test]
fn phi3_layouts() {
    layouts("phi3");
}

#[test]
fn olmo2_layouts() {
    layouts("olmo2");
}

#[test]
fn smollm3_layouts() {
    layouts("smollm3");
}

#[test]
fn granite_layouts() {
    layouts("granite");
}

/// Llama 3: every pair of the rotation has its own factor.
#[test]
fn llama_3() {
    let mut tiny = usual("llama");
    tiny.float("rope.freq_base", 500_000.0);
    let factors = [1.0, 1.0, 1.0, 1.7, 4.0, 8.0, 8.0, 8.0];
    tiny.values("rope_freqs.weight", &[8], factors.to_vec());
    check(&tiny, "with factors of frequencies");
}

#[test]
fn scaled_rotations() {
    for architecture in ["llama", "qwen2", "qwen3", "smollm3", "granite"] {
        let mut tiny = usual(architecture);
        tiny.float("rope.scaling.factor", 3.0);
        check(&tiny, "with a factor and no type of scaling");
        tiny.text("rope.scaling.type", "none");
        check(&tiny, "with a factor and scaling none");
        yarn(&mut tiny);
        check(&tiny, "with YaRN");
        tiny.float("rope.scaling.attn_factor", 1.3);
        check(&tiny, "with YaRN and a factor of its own");
    }
    let mut tiny = usual("llama");
    tiny.float("rope.scale_linear", 3.0);
    check(&tiny, "with the old key of linear scaling");
}

#[test]
fn long_and_short_factors() {
    for architecture in ["phi3", "llama"] {
        for (original, what) in [(16, "past"), (1024, "within")] {
            let mut tiny = usual(architecture);
            longrope(&mut tiny, original);
            check(&tiny, &format!("{what} the original context"));
        }
    }
}

#[test]
fn a_part_of_the_head_rotated() {
    for architecture in ["phi3", "gemma3"] {
        let mut tiny = usual(architecture);
        tiny.count("rope.dimension_count", 12);
        check(&tiny, "with 12 of 16 numbers rotated");
    }
}

#[test]
fn windows() {
    for architecture in ["gemma2", "gemma3", "olmo2"] {
        let mut tiny = usual(architecture);
        tiny.count("attention.sliding_window", 8);
        tiny.float("rope.freq_base", 80_000.0);
        check(&tiny, "past the window");
        tiny.count("attention.sliding_window_pattern", 3);
        check(&tiny, "with a pattern of its own");
        let flags = (0..layers(architecture)).map(|l| l % 3 == 1).collect();
        tiny.set(
            "attention.sliding_window_pattern",
            Value::Array(Array::Bool(flags)),
        );
        check(&tiny, "with a list of layers");
        if architecture != "olmo2" {
            tiny.float("rope.freq_base_swa", 500.0);
            check(&tiny, "with a rotation of its own");
        }
        tiny.float("rope.scaling.factor", 3.0);
        check(&tiny, "with a window and scaling");
        yarn(&mut tiny);
        tiny.float("rope.scaling.attn_factor", 1.3);
        check(&tiny, "with a window and YaRN");
    }
    // llama.cpp ignores it in these.
    for architecture in ["phi3", "llama", "qwen2"] {
        let mut tiny = usual(architecture);
        tiny.count("attention.sliding_window", 8);
        check(&tiny, "with a window that is ignored");
    }
}

#[test]
fn soft_caps() {
    let mut tiny = usual("gemma2");
    tiny.float("attn_logit_softcapping", 2.0);
    tiny.float("final_logit_softcapping", 4.0);
    check(&tiny, "with low caps");
    let mut tiny = usual("gemma3");
    tiny.float("final_logit_softcapping", 4.0);
    check(&tiny, "with a cap");
}

/// The one size of each Gemma whose scores are scaled by (d/H)^(-1/2).
#[test]
fn the_largest_gemmas() {
    for (architecture, n_layer) in [("gemma2", 46), ("gemma3", 62)] {
        let shape = Shape {
            n_layer,
            n_embd: 32,
            head_dim: 16,
            tied: true,
            ..Shape::GQA
        };
        check(&decoder(architecture, shape, 5), "27B");
    }
}

#[test]
fn granite_without_multipliers_and_rotation() {
    let mut tiny = usual("granite");
    for name in ["residual_scale", "embedding_scale", "attention.scale"] {
        tiny.without(name);
    }
    check(&tiny, "without optional multipliers");
    tiny.set("rope.scaling.finetuned", Value::Bool(false));
    check(&tiny, "without rotation");
}

#[test]
fn experts() {
    let mut tiny = usual("llama");
    with_experts(
        &mut tiny,
        Shape {
            n_layer: layers("llama"),
            ..Shape::GQA
        },
    );
    check(&tiny, "with experts (Mixtral)");
    let mut tiny = usual("qwen3moe");
    tiny.count("expert_used_count", 1);
    check(&tiny, "with one expert per token");
    tiny.without("expert_feed_forward_length");
    tiny.count("expert_used_count", 3);
    tiny.count("feed_forward_length", 3 * 96);
    check(&tiny, "with the width of all experts together");
}
