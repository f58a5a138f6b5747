//! The patch against the source that it is pinned to, and against newer ones. The build applies
//! it to the former; this looks at what it does.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{repository, variable};

/// `build_attn` variants of the pinned llama.cpp, each with one call.
const CALL_SITES: usize = 7;
/// The call, as it stands in the patched source.
const CALL: &str = "cur = jola_hook_edit(*this, cur, il);";
/// Where all variants name the concatenated head outputs.
const HEAD_OUTPUTS: &str = r#"cb(cur, "kqv_out", il);"#;
/// Where all variants go on to the output projection.
const PROJECTION: &str = "if (wo) {";

fn patch() -> String {
    std::fs::read_to_string(repository("patches/llama-graph.patch")).unwrap()
}

/// Newer trees that `scripts/setup.sh hosts` unpacks, the pin's successors.
const NEWER: [&str; 2] = ["current", "newest"];

fn newer(name: &str) -> PathBuf {
    variable("JOLA_CACHE").join(format!("hosts/{name}/source"))
}

/// The graph builder of a llama.cpp.
fn source_in(llama: &Path) -> String {
    let path = llama.join("src/llama-graph.cpp");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn source() -> String {
    // build.rs tells where llama-cpp-sys-2 found it.
    source_in(Path::new(env!("LLAMA_CPP_SOURCE")))
}

/// As build.rs applies it.
fn apply(source: &str) -> Result<String, diffy::ApplyError> {
    let patch = patch();
    diffy::apply(source, &diffy::Patch::from_str(&patch).unwrap())
}

#[test]
fn it_applies_and_only_adds() {
    check_additions(&source());
}

/// diffy takes a hunk at another line, but not between other lines than the patch shows.
#[test]
#[ignore = "needs the sources that `make test-plugin` unpacks"]
fn it_applies_to_newer_sources() {
    for name in NEWER {
        let source = source_in(&newer(name));
        check_additions(&source);
        check_places(&source);
        assert_eq!(source.matches("\"kqv_out\"").count(), CALL_SITES, "{name}");
    }
}

/// The patched file and the hook use llama.cpp's private headers.
#[test]
#[ignore = "needs the sources that `make test-plugin` unpacks"]
fn it_compiles_with_newer_sources() {
    for name in NEWER {
        let llama = newer(name);
        let folder = tempfile::tempdir().unwrap();
        let patched = apply(&source_in(&llama)).unwrap();
        std::fs::write(folder.path().join("llama-graph.cpp"), patched).unwrap();
        let includes = [
            folder.path().to_owned(),
            repository("patches"),
            llama.join("src"),
            llama.join("include"),
            llama.join("ggml/include"),
        ];
        for unit in ["patches/jola-hook.cpp", "patches/jola-calls.cpp"] {
            let status = Command::new("c++")
                .args(["-std=c++17", "-fsyntax-only"])
                .args(
                    includes
                        .iter()
                        .map(|folder| format!("-I{}", folder.display())),
                )
                .arg(repository(unit))
                .status()
                .expect("a C++ compiler");
            assert!(status.success(), "{unit} with {name}");
        }
    }
}

fn check_additions(source: &str) {
    let patched = apply(source).unwrap();
    let patch = patch();
    let mut lines = patch.lines();
    assert!(lines
        .next()
        .unwrap()
        .starts_with("--- a/src/llama-graph.cpp"));
    assert!(lines.all(|line| !line.starts_with('-')));
    // The same from the result: what is new are the include, the calls, and blank lines.
    let mut old = source.lines().peekable();
    let new: Vec<&str> = patched
        .lines()
        .filter(|line| old.next_if_eq(line).is_none())
        .collect();
    assert_eq!(old.next(), None, "a line of the source is gone");
    let new: Vec<&str> = new
        .into_iter()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let mut expected = vec![r#"#include "jola-hook.h""#];
    expected.extend([CALL; CALL_SITES]);
    assert_eq!(new, expected);
}

/// Between the tensor's name and the projection nothing but llama.cpp's own rotation back
/// of quantised values may come before the call.
#[test]
fn every_variant_is_edited_between_head_outputs_and_projection() {
    check_places(&source());
}

fn check_places(source: &str) {
    let patched = apply(source).unwrap();
    let variants: Vec<&str> = patched.split(HEAD_OUTPUTS).skip(1).collect();
    assert_eq!(variants.len(), CALL_SITES);
    for (index, variant) in variants.iter().enumerate() {
        let (before, _) = variant.split_once(PROJECTION).expect("a projection");
        let (rotation, after) = before
            .split_once(CALL)
            .unwrap_or_else(|| panic!("variant {index} has no call:\n{before}"));
        assert_eq!(after.trim(), "", "variant {index}");
        for line in rotation.lines().map(str::trim) {
            let known = line.is_empty()
                || line == "}"
                || line.starts_with("if (")
                || line.contains("_hadamard(");
            assert!(known, "variant {index}: {line}");
        }
    }
}

/// No other place of the file names head outputs, in whatever spelling.
#[test]
fn no_head_outputs_are_overlooked() {
    assert_eq!(source().matches("\"kqv_out\"").count(), CALL_SITES);
}

/// Another llama.cpp must stop the build, not be patched in the wrong place.
#[test]
fn a_changed_source_is_refused() {
    let source = source();
    let changes = [
        ("renamed", HEAD_OUTPUTS, r#"cb(cur, "attn_heads", il);"#),
        ("other projection", PROJECTION, "if (wo != nullptr) {"),
        ("other includes", "#include <cassert>\n", ""),
    ];
    for (what, from, to) in changes {
        let changed = source.replace(from, to);
        assert_ne!(changed, source, "{what}: nothing to change");
        assert!(apply(&changed).is_err(), "{what}");
    }
    assert!(apply("").is_err());
}

/// The texts that name the pinned version agree with the pin.
#[test]
fn one_version_is_named_everywhere() {
    let manifest = std::fs::read_to_string(repository("Cargo.toml")).unwrap();
    let (_, rest) = manifest
        .split_once("llama-cpp-sys-2 = { version = \"")
        .unwrap();
    let (pin, _) = rest.split_once('"').unwrap();
    assert!(pin.starts_with('='), "the pin must be exact: {pin}");
    for file in ["build.rs", "patches/README.md"] {
        let text = std::fs::read_to_string(repository(file)).unwrap();
        assert!(text.contains(pin), "{file} does not name {pin}");
    }
}
