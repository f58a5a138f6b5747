//! Every attention form of llama.cpp, on small random models: the plugin gives the bits that
//! the callback route gives, or refuses the model.

use std::path::Path;

use jola_edit::gguf::Gguf;
use jola_edit::BaseShape;

use crate::build::{command, compile_with, current, from_source, newest, sidecar, Build};
use testkit::tiny::{forms, Tiny};

/// What `architectures.c` says of a model with one head edited in each of `layers`.
fn outcome(program: &Path, libraries: &Path, tiny: &Tiny, layers: &[u32]) -> String {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let model = tiny.write(temp.path(), "model");
    let base = BaseShape::from_gguf(&Gguf::open(&model).expect("the model")).expect("its shape");
    let edit = temp.path().join("edit.gguf");
    let edits = sidecar(&base, layers, &[0], [true, true]);
    edits.write(&edit).expect("a sidecar");
    let output = command(program, libraries)
        .arg(&model)
        .arg(&edit)
        .arg(libraries)
        .output()
        .expect("the program runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {log}", tiny.architecture);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn every_form(build: &Build) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let libraries = &build.libraries;
    let program = compile_with(build, "architectures", temp.path());
    for form in forms::all() {
        let layers: Vec<u32> = form.attention.iter().map(|(layer, _)| *layer).collect();
        let found = outcome(&program, libraries, &form.tiny, &layers);
        let name = &form.tiny.architecture;
        println!("{name}, {}: {found}", form.what);
        let expected = match name.as_str() {
            // A gate stands between the head outputs and their projection.
            "qwen3next" => REFUSED,
            _ => "edited; by callback: the same bits",
        };
        assert_eq!(found, expected, "{name}");
    }
    for (what, tiny) in [
        ("t5, encoder and decoder", forms::t5()),
        ("folded weights", forms::folded()),
    ] {
        let found = outcome(&program, libraries, &tiny, &[0, 1]);
        println!("{what}: {found}");
        assert_eq!(found, REFUSED, "{what}");
    }
}

const REFUSED: &str = "refused; by callback: refused";

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn every_attention_form_is_edited_right_or_refused() {
    every_form(&from_source());
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn every_attention_form_of_newer_libraries_is_edited_right_or_refused() {
    every_form(&current());
    every_form(&newest());
}
