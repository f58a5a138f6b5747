//! The reference model computes what llama.cpp computes, for each architecture and layout.

use crate::compare::Pair;
use crate::decoder::{decoder, Shape};
use crate::tiny::Tiny;

/// Context of llama.cpp in these tests, in tokens.
const CONTEXT: u32 = 256;

fn check(tiny: &Tiny, what: &str) -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::load(&tiny.write(folder.path(), "tiny"), 11, CONTEXT);
    pair.assert_equal(&format!("{} {what}", tiny.architecture));
    pair
}

/// All layouts that an architecture can have.
fn layouts(architecture: &str) {
    let wide = !matches!(architecture, "qwen2" | "phi3" | "olmo2");
    let ties = !matches!(architecture, "olmo2");
    let unties = architecture != "gemma2";
    let base = Shape { tied: !unties, ..Shape::GQA };
    let mut shapes = vec![
        ("GQA", base),
        ("MHA", Shape { n_head_kv: 4, ..base }),
        ("MQA", Shape { n_head_kv: 1, ..base }),
        ("with biases", Shape { biased: true, ..base }),
        ("joined qkv", Shape { joined: true, ..base }),
        ("joined qkv with biases", Shape { joined: true, biased: true, ..base }),
    ];
    if wide {
        shapes.push(("wide heads", Shape { head_dim: 32, ..base }));
        shapes.push(("narrow heads", Shape { head_dim: 8, ..base }));
    }
    if ties && unties {
        shapes.push(("tied", Shape { tied: true, ..base }));
    }
    for (seed, (what, shape)) in (0..).zip(shapes) {
        check(&decoder(architecture, shape, seed), what);
    }
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
