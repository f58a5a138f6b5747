//! C++ exceptions of the host go through the plugin to whoever catches them.

use jola_edit::gguf::Gguf;
use jola_edit::BaseShape;

use crate::build::{
    command, compile_source, current, from_source, newest, prebuilt, sidecar, Build,
};
use testkit::base_model;

fn run(build: &Build) {
    let model = base_model();
    let temp = tempfile::tempdir().expect("a temporary folder");
    let base = BaseShape::from_gguf(&Gguf::open(&model).expect("the base model"));
    let edit = temp.path().join("edit.gguf");
    sidecar(&base.expect("its shape"), &[3], &[0], [true, true])
        .write(&edit)
        .expect("a sidecar");
    let source = crate::package().join("tests/throwing.cpp");
    let program = compile_source(build, &source, temp.path());
    let mut serving = command(&program, &build.libraries);
    serving
        .env("LLAMA_JOLA", &edit)
        .arg(&model)
        .arg(&build.libraries);
    let output = serving.output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"two requests served, one failed\n");
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn a_decode_that_throws_fails_one_request_of_the_prebuilt_libraries() {
    run(&prebuilt());
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn a_decode_that_throws_fails_one_request_of_the_libraries_built_from_source() {
    run(&from_source());
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn a_decode_that_throws_fails_one_request_of_newer_libraries() {
    run(&current());
    run(&newest());
}
