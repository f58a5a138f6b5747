//! `jola.h` is what cbindgen makes of `src/ffi.rs`.

use std::path::{Path, PathBuf};

fn generate() -> String {
    let folder = crate::package();
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(folder.join("src/ffi.rs"))
        .with_src(folder.join("src/cb_eval.rs"))
        .generate()
        .expect("bindings of ffi.rs");
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).expect("a text");
    with_guide(&text, &folder.join("src/ffi.rs"))
}

/// The header with the module's own text, which is the guide for its users, at its head.
fn with_guide(header: &str, source: &Path) -> String {
    let source = std::fs::read_to_string(source).expect("ffi.rs");
    let guide: String = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    assert!(!guide.is_empty(), "ffi.rs starts with a guide");
    format!("/*\n{guide}*/\n\n{header}")
}

fn path() -> PathBuf {
    crate::package().join("jola.h")
}

#[test]
#[ignore = "writes jola.h anew: make jola-header"]
fn write_the_header() {
    std::fs::write(path(), generate()).expect("jola.h written");
}

#[test]
fn the_header_is_current() {
    let committed = std::fs::read_to_string(path()).expect("jola.h");
    assert!(
        committed == generate(),
        "plugin/jola.h is not what ffi.rs says: run `make jola-header`"
    );
}
