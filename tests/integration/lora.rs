//! LoRA adapters: the trainer's reference model against llama.cpp, and files that are none.

use std::path::{Path, PathBuf};

use jola_edit::gguf::{GgufWriter, Metadata, F32};

use crate::common::{base_model, jola_train_logits, llama_jola_on, text, Folder, Random};
use crate::logits::{self, distance, spec, Logits};
use crate::parity::{EFFECT, EXACT, TOLERANCE};
use crate::{base, sidecars};

const TOKENS: [i32; 8] = [1, 504, 2000, 33, 17, 900, 45, 12];
const RANK: u64 = 3;
/// Rows and columns of SmolLM2-135M's matrices.
const TARGETS: [(&str, u64, u64); 7] = [
    ("attn_q", 576, 576),
    ("attn_k", 192, 576),
    ("attn_v", 192, 576),
    ("attn_output", 576, 576),
    ("ffn_gate", 1536, 576),
    ("ffn_up", 1536, 576),
    ("ffn_down", 576, 1536),
];

/// An adapter of `architecture` with random numbers for every target in all 30 layers.
fn adapter(folder: &Folder, architecture: &str, kind: &str) -> PathBuf {
    let mut metadata = Metadata::new();
    for (key, value) in [
        ("general.type", "adapter"),
        ("general.architecture", architecture),
        ("adapter.type", kind),
    ] {
        metadata.insert(key, value).unwrap();
    }
    metadata.insert("adapter.lora.alpha", 6.0f32).unwrap();
    let mut writer = GgufWriter::new(metadata).unwrap();
    let mut random = Random::new(4);
    for layer in 0..30 {
        for (target, rows, columns) in TARGETS {
            for (factor, dims) in [("a", [columns, RANK]), ("b", [RANK, rows])] {
                let values = (0..dims[0] * dims[1]).map(|_| 0.05 * random.signed());
                let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
                let name = format!("blk.{layer}.{target}.weight.lora_{factor}");
                writer.add_tensor(name, F32, &dims, bytes).unwrap();
            }
        }
    }
    let path = folder.path("lora.gguf");
    writer.write(&path).unwrap();
    path
}

fn of_llama(options: &[String]) -> Logits {
    let cli = llama_jola_on("logits", base::f32_copy());
    logits::run(cli.args(EXACT).args(options), &TOKENS)
}

fn of_trainer(options: &[String]) -> Logits {
    logits::run(jola_train_logits(base::f32_copy()).args(options), &TOKENS)
}

fn options(pairs: &[(&str, String)]) -> Vec<String> {
    let options = pairs
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]);
    options.collect()
}

/// The adapter alone, and with an edit on top, which acts on what the adapter changed.
#[test]
fn llama_cpp_and_the_trainer_agree_on_an_adapter() {
    let folder = Folder::new();
    let lora = adapter(&folder, "llama", "lora");
    let edit = sidecars::golden();
    let plain = of_llama(&[]);
    for scale in [1.0, -0.5] {
        let found = of_llama(&options(&[("--lora-scaled", spec(&lora, scale))]));
        let expected = of_trainer(&options(&[("--lora", spec(&lora, scale))]));
        let (error, effect) = (distance(&found, &expected), distance(&found, &plain));
        println!("scale {scale}: {error:.2e}, effect {effect:.2e}");
        assert!(
            error <= TOLERANCE && effect > EFFECT,
            "{error:.2e} {effect:.2e}"
        );
    }
    let path = || text(&lora).to_owned();
    let alone = of_llama(&options(&[("--lora", path())]));
    let edited = text(&edit).to_owned();
    let found = of_llama(&options(&[("--lora", path()), ("--jola", edited.clone())]));
    let expected = of_trainer(&options(&[("--lora", path()), ("--jola", edited)]));
    let (error, effect) = (distance(&found, &expected), distance(&found, &alone));
    assert!(
        error <= TOLERANCE && effect > EFFECT,
        "{error:.2e} {effect:.2e}"
    );
}

#[test]
fn two_adapters_add_up() {
    let folder = Folder::new();
    let lora = adapter(&folder, "llama", "lora");
    let half = || ("--lora-scaled", spec(&lora, 0.5));
    let twice = of_llama(&options(&[half(), half()]));
    let once = of_llama(&options(&[("--lora", text(&lora).to_owned())]));
    let error = distance(&twice, &once);
    assert!(error <= TOLERANCE, "{error:.2e}");
}

#[test]
fn what_is_no_adapter_of_the_model_is_refused_by_both() {
    let folder = Folder::new();
    let out = folder.path("out.bin");
    let refused = |path: &Path, texts: [&str; 2]| {
        let lora: [&Path; 4] = [Path::new("--lora"), path, Path::new("-o"), &out];
        let clis = [
            llama_jola_on("logits", &base_model()),
            jola_train_logits(&base_model()),
        ];
        for (cli, text) in clis.into_iter().zip(texts) {
            cli.args(["--tokens", "1"])
                .args(lora)
                .fail(1, &[crate::common::text(path), text]);
        }
        assert!(!out.exists());
    };
    refused(&folder.path("none.gguf"), ["No such file", "No such file"]);
    let other = adapter(&folder, "qwen2", "lora");
    refused(&other, ["arch mismatch", "is qwen2, expected llama"]);
    let kind = adapter(&folder, "llama", "jola");
    refused(&kind, ["adapter.type", "is jola, expected lora"]);
}
