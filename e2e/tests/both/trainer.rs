//! `jola-train`: what it refuses. What it learns is tested in trainer/ and by the demo.

use std::path::Path;

use jola_edit::gguf::{Gguf, GgufWriter, Metadata};

use testkit::{base_model, repository, text, Folder};

use crate::programs::{jola_train, train};

/// Sound, but of a kind that the reference model does not cover.
#[test]
fn other_architecture() {
    let folder = Folder::new();
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "mamba").unwrap();
    let model = folder.path("mamba.gguf");
    GgufWriter::new(metadata).unwrap().write(&model).unwrap();
    assert!(Gguf::open(&model).is_ok());
    let data = repository("examples/routing/train.jsonl");
    let out = folder.path("out.gguf");
    train(&model, &data, &out).fail(1, &["mamba.gguf", "`mamba`"]);
    jola_train()
        .args([
            "logits",
            "-m",
            text(&model),
            "--tokens",
            "1",
            "-o",
            text(&out),
        ])
        .fail(1, &["mamba.gguf", "`mamba`"]);
    assert_eq!(folder.names(), ["mamba.gguf"]);
}

/// Rows that are longer than allowed are left out, and told; none left is an error.
#[test]
fn rows_that_are_too_long() {
    let folder = Folder::new();
    let data = repository("examples/routing/train.jsonl");
    let out = folder.path("out.gguf");
    train(&base_model(), &data, &out)
        .args(["--max-length", "3"])
        .fail(1, &["train.jsonl", "--max-length"]);
    assert!(!out.exists());
}

#[test]
fn missing_validation_file() {
    let folder = Folder::new();
    let data = repository("examples/routing/train.jsonl");
    let (out, valid) = (folder.path("out.gguf"), folder.path("none.jsonl"));
    train(&base_model(), &data, &out)
        .args([Path::new("--valid"), &valid])
        .fail(1, &["none.jsonl", "No such file"]);
    assert!(!out.exists());
}

#[test]
fn a_gpu_that_is_not_there() {
    let folder = Folder::new();
    let data = repository("examples/routing/train.jsonl");
    let out = folder.path("out.gguf");
    train(&base_model(), &data, &out)
        .args(["--device", "cuda:99"])
        .fail(1, &["cuda:99", "libtorch"]);
    assert!(!out.exists());
}

/// An earlier result stays what it was when a later training fails.
#[test]
fn a_failure_keeps_the_old_file() {
    let folder = Folder::new();
    let out = folder.file("edit.gguf", "precious");
    let none = folder.path("none.jsonl");
    train(&base_model(), &none, &out).fail(1, &["none.jsonl"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
}

/// On a machine where libtorch was never set up.
#[test]
fn no_libtorch() {
    let folder = Folder::new();
    let data = repository("examples/routing/train.jsonl");
    let out = folder.path("out.gguf");
    let none = folder.path("none");
    train(&base_model(), &data, &out)
        .env("LIBTORCH", &none)
        .env("JOLA_CACHE", &none)
        .env("XDG_CACHE_HOME", &none)
        .env("HOME", &none)
        .env("LD_LIBRARY_PATH", "")
        .fail(1, &["libtorch", "LIBTORCH"]);
    assert_eq!(folder.names(), Vec::<String>::new());
}
