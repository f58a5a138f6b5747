//! The models on which the trainer is compared with llama.cpp: for each architecture its
//! layouts, its kinds of rotation and whatever else its metadata can ask for.

use jola_edit::gguf::{Array, Value};

use crate::decoder::{decoder, with_experts, Shape};
use testkit::tiny::Tiny;

/// A model and what is special about it.
pub struct Case {
    /// What `docs/models.md` says.
    pub what: String,
    /// The model.
    pub tiny: Tiny,
}

/// Collects the cases of one architecture.
struct Cases {
    architecture: &'static str,
    list: Vec<Case>,
}

impl Cases {
    fn add(&mut self, what: &str, tiny: &Tiny) {
        let (what, tiny) = (what.to_owned(), tiny.clone());
        self.list.push(Case { what, tiny });
    }

    /// Adds the usual model after a change.
    fn with(&mut self, what: &str, change: impl FnOnce(&mut Tiny)) {
        let mut tiny = usual(self.architecture);
        change(&mut tiny);
        self.add(what, &tiny);
    }
}

/// All models of an architecture.
pub fn cases(architecture: &'static str) -> Vec<Case> {
    let mut cases = Cases {
        architecture,
        list: Vec::new(),
    };
    layouts(&mut cases);
    match architecture {
        "llama" => {
            scalings(&mut cases);
            long_and_short_factors(&mut cases);
            ignored_window(&mut cases);
            llama(&mut cases);
        }
        "qwen2" => {
            scalings(&mut cases);
            ignored_window(&mut cases);
        }
        "qwen3" | "smollm3" => scalings(&mut cases),
        "qwen3moe" => experts(&mut cases),
        "gemma2" | "gemma3" | "olmo2" => {
            windows(&mut cases);
            gemma(&mut cases);
        }
        "phi3" => {
            long_and_short_factors(&mut cases);
            ignored_window(&mut cases);
            partial_rotation(&mut cases);
        }
        "granite" => {
            scalings(&mut cases);
            granite(&mut cases);
        }
        other => panic!("no cases for {other}"),
    }
    cases.list
}

/// All layouts that an architecture can have.
fn layouts(cases: &mut Cases) {
    let architecture = cases.architecture;
    // Where llama.cpp's loader wants H·D = d.
    let wide = !matches!(architecture, "qwen2" | "phi3" | "olmo2");
    let unties = architecture != "gemma2";
    let ties = architecture != "olmo2" && unties;
    let base = Shape {
        tied: !unties,
        n_layer: layers(architecture),
        ..Shape::GQA
    };
    let biased = Shape {
        biased: true,
        ..base
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
        ("biases", biased),
        (
            "joined QKV",
            Shape {
                joined: true,
                ..base
            },
        ),
        (
            "joined QKV with biases",
            Shape {
                joined: true,
                ..biased
            },
        ),
    ];
    if wide {
        shapes.push((
            "heads wider than d/H",
            Shape {
                head_dim: 32,
                ..base
            },
        ));
        shapes.push((
            "heads narrower than d/H",
            Shape {
                head_dim: 8,
                ..base
            },
        ));
    }
    if ties {
        shapes.push(("tied output", Shape { tied: true, ..base }));
    }
    for (seed, (what, shape)) in (0..).zip(shapes) {
        cases.add(what, &decoder(architecture, shape, seed));
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

fn scalings(cases: &mut Cases) {
    let mut tiny = usual(cases.architecture);
    tiny.float("rope.scaling.factor", 3.0);
    cases.add("linear scaling without a type", &tiny);
    tiny.text("rope.scaling.type", "none");
    cases.add("scaling of type none", &tiny);
    yarn(&mut tiny);
    cases.add("past the original context by YaRN", &tiny);
    tiny.float("rope.scaling.attn_factor", 1.3);
    cases.add("YaRN with an attention factor", &tiny);
}

fn llama(cases: &mut Cases) {
    cases.with("linear scaling by its old key", |tiny| {
        tiny.float("rope.scale_linear", 3.0)
    });
    cases.with("factors of frequencies (Llama 3)", |tiny| {
        tiny.float("rope.freq_base", 500_000.0);
        let factors = [1.0, 1.0, 1.0, 1.7, 4.0, 8.0, 8.0, 8.0];
        tiny.values("rope_freqs.weight", &[8], factors.to_vec());
    });
    let shape = Shape {
        n_layer: layers("llama"),
        ..Shape::GQA
    };
    cases.with("experts (Mixtral)", |tiny| with_experts(tiny, shape));
}

fn long_and_short_factors(cases: &mut Cases) {
    cases.with("past the original context by longrope", |tiny| {
        longrope(tiny, 16)
    });
    cases.with("within it", |tiny| longrope(tiny, 1024));
}

fn partial_rotation(cases: &mut Cases) {
    let change = |tiny: &mut Tiny| tiny.count("rope.dimension_count", 12);
    cases.with("a part of each head rotated", change);
}

/// llama.cpp computes full attention there.
fn ignored_window(cases: &mut Cases) {
    let change = |tiny: &mut Tiny| tiny.count("attention.sliding_window", 8);
    cases.with("a window that llama.cpp ignores", change);
}

fn windows(cases: &mut Cases) {
    let architecture = cases.architecture;
    let mut tiny = usual(architecture);
    tiny.count("attention.sliding_window", 8);
    tiny.float("rope.freq_base", 80_000.0);
    cases.add("past the sliding window", &tiny);
    tiny.count("attention.sliding_window_pattern", 3);
    cases.add("another pattern of windows", &tiny);
    let flags = (0..layers(architecture)).map(|l| l % 3 == 1).collect();
    tiny.set(
        "attention.sliding_window_pattern",
        Value::Array(Array::Bool(flags)),
    );
    cases.add("a list of layers with windows", &tiny);
    if architecture != "olmo2" {
        tiny.float("rope.freq_base_swa", 500.0);
        cases.add("windows with a rotation of their own", &tiny);
    }
    tiny.float("rope.scaling.factor", 3.0);
    cases.add("windows and linear scaling", &tiny);
    yarn(&mut tiny);
    tiny.float("rope.scaling.attn_factor", 1.3);
    cases.add("windows and YaRN", &tiny);
}

fn gemma(cases: &mut Cases) {
    let architecture = cases.architecture;
    if architecture == "olmo2" {
        return;
    }
    partial_rotation(cases);
    cases.with("low soft caps", |tiny| {
        tiny.float("final_logit_softcapping", 4.0);
        if architecture == "gemma2" {
            tiny.float("attn_logit_softcapping", 2.0);
        }
    });
    // The one size whose scores are scaled by (d/H)^(-1/2).
    let n_layer = if architecture == "gemma2" { 46 } else { 62 };
    let shape = Shape {
        n_layer,
        n_embd: 32,
        tied: true,
        ..Shape::GQA
    };
    cases.add(
        "score scale of the 27B size",
        &decoder(architecture, shape, 5),
    );
}

fn granite(cases: &mut Cases) {
    let mut tiny = usual("granite");
    for name in ["residual_scale", "embedding_scale", "attention.scale"] {
        tiny.without(name);
    }
    cases.add("without optional multipliers", &tiny);
    tiny.set("rope.scaling.finetuned", Value::Bool(false));
    cases.add("without rotation", &tiny);
}

fn experts(cases: &mut Cases) {
    let mut tiny = usual("qwen3moe");
    tiny.count("expert_used_count", 1);
    cases.add("one expert per token", &tiny);
    tiny.without("expert_feed_forward_length");
    tiny.count("expert_used_count", 3);
    tiny.count("feed_forward_length", 3 * 96);
    cases.add("width of all experts together", &tiny);
}
