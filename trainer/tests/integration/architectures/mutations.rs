//! The comparison tells right from wrong: a reference model that lacks one feature of an
//! architecture is found out by a wide margin.

use jola_trainer::architectures::{Activation, Architecture, RopePairs};
use jola_trainer::model::{Config, FeedForward, Layer, Model};
use tch::{Device, Tensor};

use super::cases::{longrope, usual, yarn};
use super::compare::{Pair, TOLERANCE};
use crate::decoder::{decoder, with_experts, Shape};

use testkit::tiny::Tiny;

/// A way to damage a model, and its name.
type Damage = (&'static str, fn(&mut Model));

/// Asserts that each damage is at least ten times as far off as the tolerance allows.
fn finds(tiny: &Tiny, damages: &[Damage]) {
    let pair = Pair::new(tiny);
    let sound = pair.errors(&pair.model());
    assert!(sound[0] < TOLERANCE, "{}: {sound:?}", tiny.architecture);
    for (what, damage) in damages {
        let mut model = pair.model();
        damage(&mut model);
        let [plain, edited] = pair.errors(&model);
        println!(
            "{} without {what}: {plain:.1e}, edited {edited:.1e}",
            tiny.architecture
        );
        assert!(
            plain > 10.0 * TOLERANCE,
            "{} without {what}: {plain}",
            tiny.architecture
        );
    }
}

fn each(model: &mut Model, change: fn(&mut Layer)) {
    model.layers.iter_mut().for_each(change);
}

/// Computes the frequencies anew from a changed configuration.
fn rotate_by(model: &mut Model, change: fn(&mut Config)) {
    change(&mut model.config);
    let tensor = |values: Vec<f64>| Tensor::from_slice(&values).to_device(Device::Cpu);
    model.frequencies.short = tensor(model.config.rope.frequencies());
    model.frequencies.long = None;
    model.frequencies.local = tensor(model.config.local_rope.frequencies());
}

const PAIRS: Damage = ("its pairs", |model| {
    model.config.rope_pairs = match model.config.rope_pairs {
        RopePairs::Adjacent => RopePairs::Halves,
        RopePairs::Halves => RopePairs::Adjacent,
    };
});
const Q_NORM: Damage = ("the norm of queries", |model| {
    each(model, |l| l.attn_q_norm = None)
});
const K_NORM: Damage = ("the norm of keys", |model| {
    each(model, |l| l.attn_k_norm = None)
});
const PRE_NORM: Damage = ("the norm before attention", |model| {
    each(model, |l| l.attn_norm = None)
});
const ATTENTION_POST_NORM: Damage = ("the norm after attention", |model| {
    each(model, |l| l.attn_post_norm = None)
});
const FFN_POST_NORM: Damage = ("the norm after the feed-forward layer", |model| {
    each(model, |l| l.ffn_post_norm = None)
});
const QKV_BIAS: Damage = ("biases of qkv", |model| {
    each(model, |l| l.attn_qkv.bias = None)
});
const OUTPUT_BIAS: Damage = ("biases of W_O", |model| {
    each(model, |l| l.attn_output.bias = None)
});
const WINDOW: Damage = ("its window", |model| model.config.window = 0);
const WINDOW_WIDTH: Damage = ("the last token of its window", |model| {
    model.config.window -= 1
});
const WINDOW_PATTERN: Damage = ("its pattern", |model| {
    model
        .config
        .layers
        .iter_mut()
        .for_each(|layer| layer.local = true);
});
const LOCAL_ROPE: Damage = ("its local rotation", |model| {
    rotate_by(model, |config| config.local_rope = config.rope);
});
const SCALING: Damage = ("scaling", |model| {
    rotate_by(model, |config| config.rope.scale = 1.0)
});
const YARN: Damage = ("YaRN's angles", |model| {
    let magnitude = model.config.rope.magnitude();
    rotate_by(model, |config| config.rope.yarn = false);
    model.config.rope.attention_factor = magnitude;
});
const MAGNITUDE: Damage = ("YaRN's magnitude", |model| model.config.rope.yarn = false);
const ATTENTION_FACTOR: Damage = ("the attention factor", |model| {
    model.config.rope.attention_factor = 1.0
});
const FACTORS: Damage = ("factors of frequencies", |model| rotate_by(model, |_| ()));
const ACTIVATION: Damage = ("its activation", |model| {
    let other = match model.config.architecture.activation {
        Activation::Silu => Activation::Gelu,
        Activation::Gelu => Activation::Silu,
    };
    let row = Architecture {
        activation: other,
        ..*model.config.architecture
    };
    model.config.architecture = Box::leak(Box::new(row));
});

#[test]
fn llama() {
    let shape = Shape {
        biased: true,
        ..Shape::GQA
    };
    finds(
        &decoder("llama", shape, 1),
        &[PAIRS, PRE_NORM, QKV_BIAS, OUTPUT_BIAS, ACTIVATION],
    );
    let mut tiny = usual("llama");
    tiny.float("rope.scaling.factor", 3.0);
    finds(&tiny, &[SCALING]);
    tiny.values(
        "rope_freqs.weight",
        &[8],
        vec![1.0, 1.0, 1.0, 1.7, 4.0, 8.0, 8.0, 8.0],
    );
    finds(&tiny, &[FACTORS]);
    let mut tiny = usual("llama");
    with_experts(&mut tiny, Shape::GQA);
    finds(
        &tiny,
        &[("its second expert", |model| {
            each(model, |layer| {
                if let FeedForward::Experts { used, .. } = &mut layer.ffn {
                    *used = 1;
                }
            })
        })],
    );
}

#[test]
fn qwen() {
    let shape = Shape {
        biased: true,
        ..Shape::GQA
    };
    let output: Damage = ("the bias of the output", |model| model.output.bias = None);
    finds(&decoder("qwen2", shape, 1), &[PAIRS, QKV_BIAS, output]);
    let mut tiny = usual("qwen3");
    finds(&tiny, &[PAIRS, Q_NORM, K_NORM]);
    yarn(&mut tiny);
    tiny.float("rope.scaling.attn_factor", 1.3);
    finds(&tiny, &[SCALING, YARN, MAGNITUDE, ATTENTION_FACTOR]);
    finds(&usual("qwen3moe"), &[PAIRS, Q_NORM, K_NORM]);
}

#[test]
fn gemma() {
    let logit_cap: Damage = ("the cap of logits", |model| model.config.logit_cap = None);
    let score_cap: Damage = ("the cap of scores", |model| model.config.score_cap = None);
    let embedding: Damage = ("the scale of embeddings", |model| {
        model.config.embedding_scale = 1.0
    });
    let mut tiny = usual("gemma2");
    tiny.count("attention.sliding_window", 8);
    tiny.float("final_logit_softcapping", 4.0);
    tiny.float("attn_logit_softcapping", 2.0);
    tiny.float("rope.freq_base_swa", 500.0);
    let norms = [ATTENTION_POST_NORM, FFN_POST_NORM];
    finds(&tiny, &norms);
    finds(&tiny, &[WINDOW, WINDOW_WIDTH, WINDOW_PATTERN, LOCAL_ROPE]);
    finds(
        &tiny,
        &[PAIRS, PRE_NORM, ACTIVATION, score_cap, logit_cap, embedding],
    );
    let mut tiny = usual("gemma3");
    tiny.count("attention.sliding_window", 8);
    tiny.float("rope.freq_base", 1e6);
    tiny.float("rope.scaling.factor", 3.0);
    finds(&tiny, &norms);
    finds(
        &tiny,
        &[WINDOW, WINDOW_WIDTH, WINDOW_PATTERN, LOCAL_ROPE, SCALING],
    );
    finds(&tiny, &[PAIRS, Q_NORM, K_NORM, ACTIVATION, embedding]);
}

/// The default caps of Gemma 2, where the file names none: scores and logits are large here.
#[test]
fn gemma_defaults() {
    let mut tiny = usual("gemma2");
    tiny.scale("attn_q.weight", 4.0);
    tiny.scale("output_norm.weight", 4.0);
    finds(
        &tiny,
        &[
            ("the cap of scores", |model| model.config.score_cap = None),
            ("the cap of logits", |model| model.config.logit_cap = None),
        ],
    );
}

#[test]
fn phi3() {
    let mut tiny = usual("phi3");
    longrope(&mut tiny, 16);
    let short: Damage = ("its long factors", |model| model.frequencies.long = None);
    finds(&tiny, &[PAIRS, FACTORS, ATTENTION_FACTOR, short]);
    let mut tiny = usual("phi3");
    tiny.count("rope.dimension_count", 12);
    finds(
        &tiny,
        &[("its unrotated part", |model| {
            rotate_by(model, |config| config.rope.dim = 16)
        })],
    );
}

#[test]
fn olmo2() {
    let mut tiny = usual("olmo2");
    tiny.count("attention.sliding_window", 8);
    yarn(&mut tiny);
    finds(
        &tiny,
        &[PAIRS, Q_NORM, K_NORM, ATTENTION_POST_NORM, FFN_POST_NORM],
    );
    finds(&tiny, &[WINDOW, WINDOW_PATTERN, LOCAL_ROPE, YARN]);
}

#[test]
fn smollm3() {
    finds(
        &usual("smollm3"),
        &[
            PAIRS,
            ("its unrotated layers", |model| {
                model
                    .config
                    .layers
                    .iter_mut()
                    .for_each(|layer| layer.rotated = true);
            }),
        ],
    );
}

#[test]
fn granite() {
    finds(
        &usual("granite"),
        &[
            PAIRS,
            ("the scale of embeddings", |model| {
                model.config.embedding_scale = 1.0
            }),
            ("the scale of the residual", |model| {
                model.config.residual_scale = 1.0
            }),
            ("the scale of logits", |model| {
                model.config.logit_scale = 1.0
            }),
            ("the scale of scores", |model| {
                model.config.score_scale = 0.25
            }),
        ],
    );
}
