//! A llama.cpp that the plugin does not know: one clear line, and nothing is served.

use std::path::Path;
use std::process::{Command, Output};

use jola_edit::BaseShape;

use crate::build::{command, compile, sidecar};

/// `unknown.c`, compiled: the program and, beside it, its library.
fn program(folder: &Path) -> std::path::PathBuf {
    let library = folder.join("libunknown.so");
    let options = ["-DLIBRARY", "-fPIC", "-shared"].map(Into::into);
    std::fs::rename(compile("unknown", &options, folder), &library).expect("the library");
    compile("unknown", &[library.into()], folder)
}

fn run(mut command: Command, version: &str) -> Output {
    command.arg(version).output().expect("the program runs")
}

#[test]
fn a_llama_cpp_that_is_not_known_serves_nothing() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let folder = temp.path();
    let program = program(folder);
    let base = BaseShape {
        architecture: "llama".into(),
        block_count: 2,
        head_count: vec![2, 2],
        head_dim: 4,
    };
    let edit = folder.join("edit.gguf");
    sidecar(&base, &[0], &[1], [true, true])
        .write(&edit)
        .expect("a sidecar");
    for (version, clear) in [
        ("new", "no function llama_model_meta_val_str: too old"),
        ("old", "a way that this library does not know"),
    ] {
        // Without edits it is none of the plugin's business.
        let mut plain = command(&program, folder);
        plain.env("LD_PRELOAD", crate::library());
        let output = run(plain, version);
        assert!(output.status.success(), "{version}: {output:?}");
        assert_eq!(output.stdout, b"serving\n", "{version}");
        assert!(output.stderr.is_empty(), "{version}: {output:?}");

        let mut edited = command(&program, folder);
        edited
            .env("LD_PRELOAD", crate::library())
            .env("LLAMA_JOLA", &edit);
        let output = run(edited, version);
        assert_eq!(output.status.code(), Some(1), "{version}: {output:?}");
        assert!(output.stdout.is_empty(), "{version}: {output:?}");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(
            log.starts_with("llama-jola: error: ") && log.contains(clear),
            "{version}: {log}"
        );
        assert_eq!(log.lines().count(), 1, "{version}: {log}");
    }
}
