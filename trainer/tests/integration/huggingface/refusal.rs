//! Directories that cannot be used are refused by file, tensor or key; nothing is written.

use std::path::Path;

use clap::Parser;
use jola_trainer::cli::Cli;
use safetensors::Dtype;
use serde_json::{json, Value as Json};
use tempfile::TempDir;

use super::fixture::{write_weights, Golden, Shapes};

/// A sound directory with data to train on.
fn sound(case: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    Golden::read(case).write_sharded(folder.path(), Dtype::F32);
    let row = json!({ "prompt": "ab", "completion": "cd" }).to_string();
    std::fs::write(folder.path().join("data.jsonl"), format!("{row}\n{row}\n")).unwrap();
    folder
}

/// What training on the directory answers; asserts that it leaves no output.
fn refusal(folder: &Path) -> String {
    let (data, out) = (folder.join("data.jsonl"), folder.join("edit.gguf"));
    let arguments: [&std::ffi::OsStr; 11] = [
        "jola-train".as_ref(),
        "-m".as_ref(),
        folder.as_ref(),
        "--data".as_ref(),
        data.as_ref(),
        "-o".as_ref(),
        out.as_ref(),
        "--steps".as_ref(),
        "1".as_ref(),
        "--dtype".as_ref(),
        "f32".as_ref(),
    ];
    let error = Cli::parse_from(arguments).run().unwrap_err();
    assert!(!out.exists());
    format!("{error:#}")
}

/// The refusal after `change` to config.json.
fn config_refusal(case: &str, change: impl FnOnce(&mut Json)) -> String {
    let folder = sound(case);
    let file = folder.path().join("config.json");
    let mut config: Json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&file, config.to_string()).unwrap();
    refusal(folder.path())
}

/// Asserts that `text` holds all of `parts`.
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn configurations() {
    let text = config_refusal("llama", |c| {
        c["rope_parameters"]["rope_type"] = json!("dynamic")
    });
    says(
        &text,
        &["config.json: `rope_parameters.rope_type` is \"dynamic\", expected one of default"],
    );
    let text = config_refusal("qwen2", |c| {
        c["rope_parameters"]["rope_type"] = json!("llama3")
    });
    says(
        &text,
        &["\"llama3\", expected one of default, linear, yarn"],
    );
    let text = config_refusal("llama-yarn", |c| {
        c["rope_parameters"]["beta_fast"] = json!(16)
    });
    says(&text, &["`rope_parameters.beta_fast` is 16, expected 32"]);
    let text = config_refusal("llama", |c| {
        c["architectures"] = json!(["FalconForCausalLM"])
    });
    says(
        &text,
        &[
            "config.json: architecture `FalconForCausalLM`",
            "LlamaForCausalLM, ",
        ],
    );
    let text = config_refusal("llama", |c| {
        drop(c.as_object_mut().unwrap().remove("hidden_size"))
    });
    says(&text, &["config.json: `hidden_size` is missing"]);
    let text = config_refusal("llama", |c| c["hidden_size"] = json!("32"));
    says(&text, &["`hidden_size` is \"32\", expected a count"]);
    let text = config_refusal("llama", |c| c["quantization_config"] = json!({"bits": 4}));
    says(
        &text,
        &[
            "quantised weights ({\"bits\":4})",
            "expected safetensors in float32",
        ],
    );
    let text = config_refusal("llama", |c| c["hidden_act"] = json!("relu"));
    says(&text, &["`hidden_act` is \"relu\", expected silu"]);
    let text = config_refusal("phi3-longrope", |c| {
        c["rope_parameters"]["long_factor"] = json!([1.0])
    });
    says(
        &text,
        &["`rope_parameters.long_factor` is [1.0], expected a list of 4 numbers"],
    );
    let text = config_refusal("llama", |c| c["hidden_size"] = json!(64));
    let expected = "model-00001-of-00002.safetensors: tensor `model.embed_tokens.weight` \
        has shape [96, 32], expected [96, 64]";
    says(&text.replace("00002-of", "00001-of"), &[expected]);
}

#[test]
fn shards() {
    let first = "model-00001-of-00002.safetensors";
    let folder = sound("llama");
    std::fs::remove_file(folder.path().join(first)).unwrap();
    let text = refusal(folder.path());
    says(
        &text,
        &[
            "model.safetensors.index.json: shard model-00001",
            "is missing: 15 tensors",
        ],
    );

    for keep in [4usize, 100, 20_000] {
        let folder = sound("llama");
        let file = folder.path().join(first);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..keep]).unwrap();
        let text = refusal(folder.path());
        says(&text, &[first]);
        if keep > 8 {
            says(
                &text,
                &[
                    &format!("{keep} bytes long, expected "),
                    "download is not complete",
                ],
            );
        }
    }

    let folder = sound("llama");
    std::fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    says(
        &refusal(folder.path()),
        &["neither model.safetensors nor model.safetensors.index.json"],
    );
}

#[test]
fn tensors() {
    let golden = Golden::read("llama");
    let rewritten = |change: &dyn Fn(&mut Shapes), dtype: Dtype| {
        let folder = sound("llama");
        let shapes = golden.shapes.iter();
        let mut tensors = shapes
            .map(|(name, shape)| (name.clone(), shape.clone()))
            .collect();
        change(&mut tensors);
        write_weights(&folder.path().join("model.safetensors"), &tensors, dtype);
        refusal(folder.path())
    };
    let query = "model.layers.1.self_attn.q_proj.weight";
    let text = rewritten(
        &|all| all.iter_mut().find(|(name, _)| name == query).unwrap().1 = vec![16, 32],
        Dtype::F32,
    );
    says(
        &text,
        &[&format!(
            "model.safetensors: tensor `{query}` has shape [16, 32], expected [32, 32]"
        )],
    );
    let text = rewritten(&|all| all.retain(|(name, _)| name != query), Dtype::F32);
    says(&text, &[&format!("tensor `{query}` is missing")]);
    let text = rewritten(
        &|all| all.push(("model.extra.weight".into(), vec![2])),
        Dtype::F32,
    );
    says(
        &text,
        &["model.safetensors: tensor `model.extra.weight` is not part of the model"],
    );
    let text = rewritten(
        &|all| all.retain(|(name, _)| name != "lm_head.weight"),
        Dtype::F32,
    );
    says(
        &text,
        &["`lm_head.weight` is missing, and `tie_word_embeddings` is false"],
    );
    let text = rewritten(&|_| {}, Dtype::F64);
    says(&text, &["is stored as F64, expected F32, F16 or BF16"]);
}

#[test]
fn tokenizers() {
    let folder = sound("llama");
    let file = folder.path().join("tokenizer.json");
    let mut tokenizer = super::fixture::tokenizer();
    tokenizer["model"]["vocab"]["zz"] = json!(96);
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    let text = refusal(folder.path());
    says(
        &text,
        &[
            "tokenizer.json",
            "\"zz\" has id 96",
            "`vocab_size` 96",
            "another model",
        ],
    );
    std::fs::write(&file, "{}").unwrap();
    says(&refusal(folder.path()), &["tokenizer.json: tokenizer: "]);
    std::fs::remove_file(&file).unwrap();
    says(&refusal(folder.path()), &["tokenizer.json: cannot read it"]);
}
