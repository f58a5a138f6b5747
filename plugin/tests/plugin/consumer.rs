//! `consumer.c`, compiled and run against shared llama.cpp libraries that others built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use jola_edit::gguf::Gguf;
use jola_edit::{BaseShape, HeadVectors, LayerEdit, Sidecar};

fn variable(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    PathBuf::from(value.unwrap_or_else(|| panic!("{name} is not set: source scripts/env.sh")))
}

/// A sidecar of `base` with the same made-up numbers for two heads of each layer.
fn sidecar(base: &BaseShape, layers: &[u32], halves: [bool; 2]) -> Sidecar {
    let head_dim = base.head_dim;
    let vectors = |scale: f32| HeadVectors {
        heads: vec![0, 2],
        values: (0..2 * head_dim)
            .map(|i| scale * (i as f32).sin())
            .collect(),
    };
    let [mul, add] = halves;
    let edit = LayerEdit {
        mul: mul.then(|| vectors(0.5)),
        add: add.then(|| vectors(0.1)),
    };
    Sidecar {
        architecture: base.architecture.clone(),
        name: "consumer test".into(),
        base_model_name: "test base".into(),
        block_count: base.block_count,
        head_count: base.to_head_count(),
        head_dim,
        method: "random".into(),
        base_sha256: None,
        train: Default::default(),
        layers: layers.iter().map(|&layer| (layer, edit.clone())).collect(),
        warnings: Vec::new(),
    }
}

/// The file in `folder` whose name starts and ends so, the shortest one.
fn library(folder: &Path, start: &str) -> PathBuf {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder's entry").path())
        .filter(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with(start) && name.ends_with(".so")
        })
        .collect();
    names.sort_by_key(|path| path.as_os_str().len());
    let missing = || {
        panic!(
            "no {start}*.so in {}: run `make test-plugin`",
            folder.display()
        )
    };
    names.into_iter().next().unwrap_or_else(missing)
}

fn run(libraries: &Path) {
    let model = variable("JOLA_TEST_MODEL");
    let include = variable("JOLA_CACHE").join("hosts/python/source/vendor/llama.cpp");
    let temp = tempfile::tempdir().expect("a temporary folder");
    let gguf = Gguf::open(&model).expect("the base model");
    let base = BaseShape::from_gguf(&gguf).expect("its shape");
    let mut other_base = base.clone();
    other_base.block_count += 1;
    other_base.head_count.push(other_base.head_count[0]);
    let edits: BTreeMap<&str, Sidecar> = [
        (
            "edit.gguf",
            sidecar(&base, &[0, 5, base.block_count - 1], [true, true]),
        ),
        ("other.gguf", sidecar(&base, &[3], [false, true])),
        ("wrong.gguf", sidecar(&other_base, &[3], [true, false])),
    ]
    .into();
    for (name, edit) in &edits {
        edit.write(temp.path().join(name)).expect("a sidecar");
    }
    let program = temp.path().join("consumer");
    let status = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(crate::package().join("tests/consumer.c"))
        .arg("-I")
        .arg(crate::package())
        .arg("-I")
        .arg(include.join("include"))
        .arg("-I")
        .arg(include.join("ggml/include"))
        .arg(crate::library()) // before llama.cpp: its functions come first
        .args([
            library(libraries, "libllama."),
            library(libraries, "libggml."),
        ])
        .arg(library(libraries, "libggml-base."))
        .args(["-lm", "-Wl,--allow-shlib-undefined"])
        .status()
        .expect("cc");
    assert!(status.success(), "consumer.c does not compile");
    let loader = crate::library();
    let paths = [libraries, loader.parent().expect("a folder")];
    let status = Command::new(&program)
        .arg(&model)
        .args(edits.keys().take(2).map(|name| temp.path().join(name)))
        .arg(temp.path().join("wrong.gguf"))
        .arg(libraries)
        .env(
            "LD_LIBRARY_PATH",
            std::env::join_paths(paths).expect("paths"),
        )
        .env_remove("LLAMA_JOLA")
        .status()
        .expect("the program runs");
    assert!(status.success(), "see above");
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn a_c_program_with_the_prebuilt_libraries_of_node_llama_cpp() {
    let node = "hosts/node/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64";
    run(&variable("JOLA_CACHE").join(node));
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn a_c_program_with_libraries_built_from_the_python_package() {
    run(&variable("JOLA_CACHE").join("hosts/python/build/bin"));
}
