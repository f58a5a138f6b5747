//! The reference model computes what llama.cpp computes.

use super::cases::cases;
use super::compare::Pair;

fn check(architecture: &'static str) {
    for case in cases(architecture) {
        Pair::new(&case.tiny).assert_equal(&format!("{architecture}, {}", case.what));
    }
}

#[test]
fn llama() {
    check("llama");
}

#[test]
fn qwen2() {
    check("qwen2");
}

#[test]
fn qwen3() {
    check("qwen3");
}

#[test]
fn qwen3moe() {
    check("qwen3moe");
}

#[test]
fn gemma2() {
    check("gemma2");
}

#[test]
fn gemma3() {
    check("gemma3");
}

#[test]
fn phi3() {
    check("phi3");
}

#[test]
fn olmo2() {
    check("olmo2");
}

#[test]
fn smollm3() {
    check("smollm3");
}

#[test]
fn granite() {
    check("granite");
}
