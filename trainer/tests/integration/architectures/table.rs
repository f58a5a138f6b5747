//! `docs/models.md` is what these tests know: one compares, another one, which nothing runs
//! unasked, writes.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use jola_edit::architectures::{find_trainable, TRAINABLE};
use llama_jola::bake::architectures;

use super::cases::cases;
use testkit::tiny::forms;

/// What stands above the tables.
const INTRODUCTION: &str = include_str!("models.md");

/// Architectures that were checked with published weights, and by which test.
const REAL_WEIGHTS: [(&str, &str); 2] = [
    ("llama", "SmolLM2-135M-Instruct Q4_1 (`e2e/tests/both`)"),
    ("gemma3", "Gemma 3 270M Q4_K_M (`make test-gemma`)"),
];

fn bake(architecture: &str) -> &'static str {
    match architectures::find(architecture).map(|entry| entry.bakeable()) {
        Some(can) if can.scales && can.offsets => "scales, offsets",
        Some(can) if can.scales => "scales",
        _ => "no",
    }
}

fn table() -> String {
    let mut text = INTRODUCTION.to_owned();
    let rule =
        "| architecture | models | train | infer | bake | evidence |\n|---|---|---|---|---|---|";
    writeln!(text, "{rule}").unwrap();
    for entry in TRAINABLE {
        let seeded: Vec<String> = cases(entry.name)
            .into_iter()
            .map(|case| case.what)
            .collect();
        let real = REAL_WEIGHTS.iter().find(|(name, _)| *name == entry.name);
        let real = real.map_or(String::new(), |(_, what)| format!("real weights: {what}; "));
        let (name, models, bake) = (entry.name, entry.models, bake(entry.name));
        let seeded = seeded.join(", ");
        writeln!(
            text,
            "| {name} | {models} | yes | yes | {bake} | {real}seeded models: {seeded} |"
        )
        .unwrap();
    }
    for form in forms::all() {
        let name = &form.tiny.architecture;
        if find_trainable(name).is_none() {
            let (what, bake) = (form.what, bake(name));
            writeln!(
                text,
                "| {name} | {what} | no | yes | {bake} | hook's input and output |"
            )
            .unwrap();
        }
    }
    writeln!(
        text,
        "| mamba, rwkv, … | no attention | no | refused | no | layers named |"
    )
    .unwrap();
    writeln!(
        text,
        "| t5 | encoder and decoder | no | refused | no | refused by name |"
    )
    .unwrap();
    text
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md")
}

#[test]
fn docs_models() {
    let path = path();
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(
        found == table(),
        "{} is out of date: `cargo test --release -p jola-trainer --test integration -- \
         --ignored write_docs_models` writes it",
        path.display()
    );
}

#[test]
#[ignore = "writes docs/models.md anew"]
fn write_docs_models() {
    std::fs::write(path(), table()).unwrap();
}
