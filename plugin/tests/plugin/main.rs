//! The library as others see it: its header, what it links, and a C program that uses it.

mod adapters;
mod architectures;
mod build;
mod consumer;
mod example;
mod header;
mod library;
mod throwing;
mod unknown;

use std::path::PathBuf;

/// This package's folder.
fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `libjola.so`, which cargo builds beside the tests.
fn library() -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    let found = tests.ancestors().skip(1).take(2).find_map(|folder| {
        let library = folder.join("libjola.so");
        library.is_file().then_some(library)
    });
    found.expect("libjola.so beside the tests")
}
