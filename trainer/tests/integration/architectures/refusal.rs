//! Bases that the reference model would compute differently are refused, by what is wrong.

use jola_edit::architectures::trainable_names;
use jola_edit::gguf::Value;
use jola_edit::Folded;
use jola_trainer::model::{Model, Precision};
use tch::Device;

use super::cases::usual;
use testkit::tiny::Tiny;

/// What loading the usual model says after a change.
fn refusal(architecture: &str, change: impl FnOnce(&mut Tiny)) -> String {
    let mut tiny = usual(architecture);
    change(&mut tiny);
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path(), "tiny");
    match Model::load(&path, Precision::F32, Device::Cpu) {
        Ok(_) => panic!("{architecture} is not refused"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn an_unknown_architecture_is_named_with_the_known_ones() {
    let text = refusal("llama", |tiny| {
        tiny.set_key("general.architecture", Value::String("falcon".to_owned()));
    });
    says(
        &text,
        &["tiny.gguf", "`falcon`", trainable_names().as_str()],
    );
}

#[test]
fn metadata() {
    let text = refusal("llama", |tiny| tiny.text("rope.scaling.type", "dynamic"));
    let known = "rope scaling of type `dynamic` (known: none, linear, yarn, longrope)";
    says(&text, &["tiny.gguf", known]);
    let text = refusal("qwen2", |tiny| tiny.count("expert_count", 4));
    says(&text, &["a mixture of experts in this architecture"]);
    let text = refusal("llama", |tiny| tiny.count("attention.value_length", 8));
    says(&text, &["values of another width than keys"]);
    let text = refusal("llama", |tiny| tiny.count("attention.head_count_kv", 3));
    says(&text, &["not a multiple of key-value heads"]);
    let text = refusal("llama", |tiny| {
        tiny.set_key(Folded::KEY, Value::U32(1));
    });
    says(&text, &["tiny.gguf", "(`prism.hadamard.version`)"]);
    let text = refusal("qwen3", |tiny| tiny.without("embedding_length"));
    says(&text, &["qwen3.embedding_length"]);
    let text = refusal("llama", |tiny| tiny.text("block_count", "three"));
    says(&text, &["llama.block_count"]);
}

#[test]
fn tensors() {
    let name = "blk.1.attn_q.weight";
    let text = refusal("llama", |tiny| {
        tiny.drop_tensor(name);
        tiny.weight(name, &[64, 32], 1.0);
    });
    says(
        &text,
        &["tiny.gguf", name, "has shape [64, 32], expected [64, 64]"],
    );
    let text = refusal("llama", |tiny| tiny.drop_tensor("blk.2.ffn_down.weight"));
    says(&text, &["blk.2.ffn_down.weight", "is missing"]);
    // llama.cpp would use it.
    let text = refusal("qwen2", |tiny| tiny.norm("blk.0.attn_q_norm.weight", 16));
    let unknown = "is not part of the model that the trainer knows";
    says(&text, &["blk.0.attn_q_norm.weight", unknown]);
}
