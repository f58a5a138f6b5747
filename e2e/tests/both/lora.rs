//! LoRA adapters: the trainer's reference model against llama.cpp, and files that are none.

use std::path::{Path, PathBuf};

use crate::parity::{EFFECT, EXACT, TOLERANCE};
use crate::programs::{f32_base, jola_train_logits};
use testkit::logits::{self, distance, spec, Logits};
use testkit::{base_model, llama_jola_on, sidecars, text, Folder, Lora};

const TOKENS: [i32; 8] = [1, 504, 2000, 33, 17, 900, 45, 12];
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
    let path = folder.path("lora.gguf");
    let lora = Lora {
        architecture,
        kind,
        alpha: 6.0,
        rank: 3,
        layers: 30,
        targets: &TARGETS,
        size: 0.05,
        seed: 4,
    };
    lora.write(&path).unwrap();
    path
}

fn of_llama(options: &[String]) -> Logits {
    let cli = llama_jola_on("logits", f32_base());
    logits::run(cli.args(EXACT).args(options), &TOKENS)
}

fn of_trainer(options: &[String]) -> Logits {
    logits::run(jola_train_logits(f32_base()).args(options), &TOKENS)
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
                .fail(1, &[testkit::text(path), text]);
        }
        assert!(!out.exists());
    };
    refused(&folder.path("none.gguf"), ["No such file", "No such file"]);
    let other = adapter(&folder, "qwen2", "lora");
    refused(&other, ["arch mismatch", "is qwen2, expected llama"]);
    let kind = adapter(&folder, "llama", "jola");
    let said = "it is a sidecar with an edit, not a LoRA adapter: it goes behind --jola";
    refused(&kind, [said, said]);
}
