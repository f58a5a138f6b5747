//! `consumer.c`, compiled and run against shared llama.cpp libraries that others built.

use jola_edit::gguf::Gguf;
use jola_edit::sidecar::{text_sha256, RowFormat};
use jola_edit::{BaseShape, BaseWeights, Training};

use crate::build::{command, compile_with, current, from_source, newest, prebuilt, sidecar, Build};
use testkit::base_model;

fn run(build: &Build) {
    let model = base_model();
    let temp = tempfile::tempdir().expect("a temporary folder");
    let gguf = Gguf::open(&model).expect("the base model");
    let base = BaseShape::from_gguf(&gguf).expect("its shape");
    let mut other_base = base.clone();
    other_base.block_count += 1;
    other_base.head_count.push(other_base.head_count[0]);
    let all: Vec<u32> = (0..base.block_count).collect();
    let [first, last] = [0, base.block_count - 1];
    let mut trained_otherwise = sidecar(&base, &[first, 5, last], &[0, 2], [true, true]);
    let training = Training {
        format: Some(RowFormat::Chat),
        template_sha256: Some(text_sha256("another template")),
        base: BaseWeights {
            norms_sha256: Some(text_sha256("another model")),
            ..BaseWeights::default()
        },
        ..Training::default()
    };
    training.note(&mut trained_otherwise.train).expect("notes");
    let edits = [
        trained_otherwise,
        sidecar(&base, &[3], &[0, 2], [false, true]),
        sidecar(&other_base, &[3], &[0, 2], [true, false]),
        sidecar(&base, &all, &[0, 2], [true, true]),
    ];
    let names = ["edit.gguf", "other.gguf", "wrong.gguf", "all.gguf"];
    let paths = names.map(|name| temp.path().join(name));
    for (edit, path) in edits.iter().zip(&paths) {
        edit.write(path).expect("a sidecar");
    }
    let program = compile_with(build, "consumer", temp.path());
    let output = command(&program, &build.libraries)
        .env("LLAMA_JOLA_LOG", "info")
        .arg(&model)
        .args(&paths)
        .arg(&build.libraries)
        .output()
        .expect("the program runs");
    let log = String::from_utf8_lossy(&output.stderr);
    print!("{}{log}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "see above");
    let edit = paths[0].display();
    for line in [
        format!("llama-jola: {edit}: trained on conversations"),
        format!("llama-jola: warning: {edit}: trained on another model of the same shape"),
        format!("llama-jola: warning: {edit}: trained with another chat template"),
    ] {
        let said = log.lines().filter(|found| found.starts_with(&line));
        assert_eq!(said.count(), 1, "{line}");
    }
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn a_c_program_with_the_prebuilt_libraries_of_node_llama_cpp() {
    run(&prebuilt());
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn a_c_program_with_libraries_built_from_the_python_package() {
    run(&from_source());
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn a_c_program_with_newer_libraries() {
    run(&current());
    run(&newest());
}
