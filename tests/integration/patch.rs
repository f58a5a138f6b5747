//! The patch against the source that it is pinned to. The build applies it too; this looks
//! at what it does.

use std::path::Path;

use testkit::repository;

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

fn source() -> String {
    // build.rs tells where llama-cpp-sys-2 found it.
    let path = Path::new(env!("LLAMA_CPP_SOURCE")).join("src/llama-graph.cpp");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// As build.rs applies it.
fn apply(source: &str) -> Result<String, diffy::ApplyError> {
    let patch = patch();
    diffy::apply(source, &diffy::Patch::from_str(&patch).unwrap())
}

#[test]
fn it_applies_and_only_adds() {
    let (source, patched) = (source(), apply(&source()).unwrap());
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
    let patched = apply(&source()).unwrap();
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
