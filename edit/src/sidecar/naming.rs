//! How sidecars are named, and how they name files and texts.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::digest;

/// File name by GGUF's convention, `jola-<base>-<size>-<finetune>.gguf`, as
/// `jola-SmolLM2-135M-routing.gguf`.
///
/// White space and path separators within a part become `-`; empty parts are left out.
pub fn file_name(base: &str, size: &str, finetune: &str) -> String {
    let separates = |c: char| c.is_whitespace() || matches!(c, '/' | '\\');
    let parts = [base, size, finetune].map(|part| {
        let words = part.split(separates).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-")
    });
    let mut name = String::from("jola");
    for part in parts.iter().filter(|part| !part.is_empty()) {
        name.push('-');
        name.push_str(part);
    }
    name + ".gguf"
}

/// SHA-256 of a file as 64 lowercase hexadecimal digits, read in pieces.
///
/// # Errors
/// What the system reports on opening or reading it.
pub fn sha256(path: impl AsRef<Path>) -> io::Result<String> {
    digest::sha256([path])
}

/// SHA-256 of a text as 64 lowercase hexadecimal digits.
pub fn text_sha256(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}
