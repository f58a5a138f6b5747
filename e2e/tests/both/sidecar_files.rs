//! Every way in which a sidecar can be wrong that a user may meet, through the commands:
//! refused with the file and the cause, before anything is computed or written. The rules
//! themselves are tested one by one in edit/.

use std::path::Path;

use jola_edit::gguf::Value;

use crate::programs::jola_train_logits;
use testkit::sidecars::{self, RawSidecar};
use testkit::{base_model, llama_jola, llama_jola_on, repository, text, Folder};

const LAYER_0_MUL: &str = "blk.0.attn_output.jola_mul";
const LAYER_0_MUL_HEADS: &str = "blk.0.attn_output.jola_mul_heads";

/// All commands that take a sidecar refuse this one, with `texts`, and leave nothing behind.
fn refused_by_all(folder: &Folder, sidecar: &Path, texts: &[&str]) {
    refused_with_the_base(folder, sidecar, texts);
    let before = folder.names();
    let out = folder.path("plot.svg");
    llama_jola("inspect")
        .args([sidecar, Path::new("--plot"), &out])
        .fail(1, texts);
    assert_eq!(folder.names(), before);
}

/// All commands that apply a sidecar to a model refuse this one.
fn refused_with_the_base(folder: &Folder, sidecar: &Path, texts: &[&str]) {
    let before = folder.names();
    let (base, data) = (base_model(), repository("examples/routing/test.jsonl"));
    let out = folder.path("out");
    let clis = [
        llama_jola_on("logits", &base).args(["--tokens", "1,2", "-o", text(&out)]),
        llama_jola_on("run", &base).args(["-p", "Hello", "-n", "2"]),
        llama_jola_on("eval", &base).args([
            "--limit",
            "1",
            "--data",
            text(&data),
            "--predictions",
            text(&out),
        ]),
        jola_train_logits(&base).args(["--tokens", "1,2", "-o", text(&out)]),
    ];
    for cli in clis {
        cli.args([Path::new("--jola"), sidecar]).fail(1, texts);
        assert_eq!(folder.names(), before, "a file was left behind");
    }
}

#[test]
fn missing() {
    let folder = Folder::new();
    let path = folder.path("none.gguf");
    refused_by_all(&folder, &path, &["none.gguf", "No such file"]);
}

#[test]
fn a_folder() {
    let folder = Folder::new();
    let path = folder.path("folder.gguf");
    std::fs::create_dir(&path).unwrap();
    refused_by_all(&folder, &path, &["folder.gguf", "cannot"]);
}

#[test]
fn empty_file() {
    let folder = Folder::new();
    let path = folder.file("empty.gguf", "");
    refused_by_all(&folder, &path, &["empty.gguf", "truncated"]);
}

#[test]
fn not_a_gguf() {
    let folder = Folder::new();
    let path = folder.file("notes.gguf", "Dear diary, today I trained a model.");
    refused_by_all(&folder, &path, &["notes.gguf", "not a GGUF file"]);
}

/// Cut in the header, in the tensor table and in the data.
#[test]
fn truncated() {
    let folder = Folder::new();
    let whole = std::fs::read(sidecars::golden()).unwrap();
    for (name, len) in [
        ("a.gguf", 20),
        ("b.gguf", 700),
        ("c.gguf", whole.len() - 64),
    ] {
        let path = folder.file(name, &whole[..len]);
        refused_by_all(&folder, &path, &[name, "truncated"]);
    }
}

/// A model where a sidecar should be.
#[test]
fn a_model_instead_of_a_sidecar() {
    let folder = Folder::new();
    let name = base_model();
    let name = name.file_name().unwrap().to_str().unwrap();
    refused_with_the_base(&folder, &base_model(), &[name, "it is a base model", "-m"]);
    // `inspect` explains a model, but has no picture of it.
    let (before, out) = (folder.names(), folder.path("plot.svg"));
    llama_jola("inspect")
        .args([base_model().as_path(), Path::new("--plot"), &out])
        .fail(1, &[name, "is a model"]);
    assert_eq!(folder.names(), before);
}

/// An adapter of another kind: llama.cpp's own LoRA files are GGUF adapters as well.
#[test]
fn a_lora_instead_of_a_sidecar() {
    let folder = Folder::new();
    let path = folder.path("lora.gguf");
    RawSidecar::golden()
        .set("adapter.type", "lora")
        .write(&path);
    refused_by_all(
        &folder,
        &path,
        &["lora.gguf", "it is a LoRA adapter", "--lora"],
    );
}

#[test]
fn newer_format_version() {
    let folder = Folder::new();
    let path = folder.path("newer.gguf");
    RawSidecar::golden()
        .set("jola.format_version", 2u32)
        .write(&path);
    refused_by_all(
        &folder,
        &path,
        &["newer.gguf", "`jola.format_version` is 2"],
    );
}

#[test]
fn not_a_number() {
    let folder = Folder::new();
    let path = folder.path("nan.gguf");
    RawSidecar::golden()
        .patch(LAYER_0_MUL, 4 * 70, &f32::NAN.to_le_bytes())
        .write(&path);
    refused_by_all(
        &folder,
        &path,
        &["nan.gguf", LAYER_0_MUL, "NaN at index 70"],
    );
}

#[test]
fn infinite() {
    let folder = Folder::new();
    let path = folder.path("inf.gguf");
    RawSidecar::golden()
        .patch(LAYER_0_MUL, 0, &f32::NEG_INFINITY.to_le_bytes())
        .write(&path);
    refused_by_all(&folder, &path, &["inf.gguf", LAYER_0_MUL, "-inf"]);
}

#[test]
fn head_out_of_range() {
    let folder = Folder::new();
    for (name, head) in [("high.gguf", 9i32), ("negative.gguf", -1)] {
        let path = folder.path(name);
        RawSidecar::golden()
            .patch(LAYER_0_MUL_HEADS, 4, &head.to_le_bytes())
            .write(&path);
        let head = format!("head {head}");
        refused_by_all(&folder, &path, &[name, LAYER_0_MUL_HEADS, &head, "9 heads"]);
    }
}

#[test]
fn unknown_tensor() {
    let folder = Folder::new();
    let path = folder.path("extra.gguf");
    let mut raw = RawSidecar::golden();
    raw.tensors[0].name = "blk.0.attn_q.weight".into();
    raw.write(&path);
    refused_by_all(&folder, &path, &["extra.gguf", "blk.0.attn_q.weight"]);
}

/// Sidecars that are sound, but made for another model: with the fault in the text, and the
/// names of both files.
fn refused_as_foreign(key: &str, value: impl Into<Value>, texts: &[&str]) {
    let folder = Folder::new();
    let path = folder.path("foreign.gguf");
    RawSidecar::golden().set(key, value).write(&path);
    let mut all = vec!["foreign.gguf"];
    all.extend(texts);
    refused_with_the_base(&folder, &path, &all);
    llama_jola("inspect")
        .args([&path, Path::new("-m"), &base_model()])
        .fail(1, texts);
    // By itself it is fine.
    llama_jola("inspect").args([&path]).succeed();
}

#[test]
fn other_architecture() {
    refused_as_foreign("general.architecture", "gemma3", &["`gemma3`", "`llama`"]);
}

#[test]
fn other_layer_count() {
    refused_as_foreign("jola.block_count", 32u32, &["32 layers", "30"]);
}

#[test]
fn other_head_count() {
    refused_as_foreign("jola.head_count", 16u32, &["16 heads", "9"]);
}

/// The tensors must have the other width too, or the sidecar is broken in itself.
#[test]
fn other_head_width() {
    let folder = Folder::new();
    let path = folder.path("wide.gguf");
    let mut wide = sidecars::empty();
    wide.head_dim = 128;
    let mul = sidecars::one_head(3, vec![0.5; 128]);
    let edit = jola_edit::LayerEdit { mul, add: None };
    wide.layers.insert(4, edit);
    wide.write(&path).unwrap();
    refused_with_the_base(&folder, &path, &["wide.gguf", "width 128", "64"]);
}

/// One sound sidecar does not help a bad one behind it.
#[test]
fn the_second_of_two() {
    let folder = Folder::new();
    let golden = sidecars::golden();
    let bad = folder.file("bad.gguf", "GGUF");
    let out = folder.path("out");
    llama_jola_on("logits", &base_model())
        .args(["--tokens", "1", "-o", text(&out), "--jola", text(&golden)])
        .args(["--jola", text(&bad)])
        .fail(1, &["bad.gguf", "truncated"]);
    assert!(!out.exists());
}

#[test]
fn scales_that_are_no_numbers() {
    let folder = Folder::new();
    let golden = sidecars::golden();
    let out = folder.path("out");
    for scale in ["nan", "inf", "-inf"] {
        let spec = format!("{}:{scale}", text(&golden));
        llama_jola_on("logits", &base_model())
            .args(["--tokens", "1", "-o", text(&out), "--jola-scaled", &spec])
            .fail(2, &["scale", "finite number"]);
        assert!(!out.exists());
    }
}

/// Scales so large that the composed edit leaves the range of 32-bit floats.
#[test]
fn scales_that_overflow() {
    let folder = Folder::new();
    let golden = sidecars::golden();
    let out = folder.path("out");
    let spec = format!("{}:3e38", text(&golden));
    llama_jola_on("logits", &base_model())
        .args(["--tokens", "1", "-o", text(&out)])
        .args(["--jola-scaled", &spec, "--jola-scaled", &spec])
        .fail(1, &["overflow", "smaller strengths"]);
    assert!(!out.exists());
}

/// A key that a newer writer may have added is no reason to refuse, but is told.
#[test]
fn unknown_key_is_a_warning() {
    let folder = Folder::new();
    let path = folder.path("extra_key.gguf");
    let mut raw = RawSidecar::golden();
    raw.metadata.push(("jola.mood".into(), "sunny".into()));
    raw.write(&path);
    let shown = llama_jola("inspect").args([&path]).succeed();
    let warning = shown.stderr.lines().find(|l| l.starts_with("warning: "));
    let warning = warning.expect("a warning");
    assert!(
        warning.contains("extra_key.gguf") && warning.contains("jola.mood"),
        "{warning}"
    );
}
