//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The base model, SmolLM2-135M-Instruct Q4_1.
pub fn base_model() -> PathBuf {
    let path = variable("JOLA_TEST_MODEL");
    assert!(
        path.is_file(),
        "{} (JOLA_TEST_MODEL) is missing: run `make test`, it downloads the model",
        path.display()
    );
    path
}

/// The folder in which slow results are kept between runs.
pub fn cache() -> PathBuf {
    let path = variable("JOLA_TEST_CACHE");
    std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

/// A path that `scripts/env.sh` sets.
pub fn variable(name: &str) -> PathBuf {
    let value = std::env::var_os(name).unwrap_or_else(|| {
        panic!("{name} is not set: run `make test`, or `. scripts/env.sh`");
    });
    PathBuf::from(value)
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("testkit lies in the repository").join(path)
}

/// The source of the llama.cpp that is built in: its package's folder, as cargo names it.
pub fn llama_cpp() -> PathBuf {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(repository("."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {output:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|p| p["name"] == "llama-cpp-sys-2");
    let manifest = package.expect("llama-cpp-sys-2 is a dependency")["manifest_path"].as_str();
    Path::new(manifest.expect("a path")).with_file_name("llama.cpp")
}

/// The path as the programs print it.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}
