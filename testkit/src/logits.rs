//! Logits as both programs write them, and how far two of them are apart.

use std::path::{Path, PathBuf};

use jola_edit::gguf::Gguf;

use crate::{base_model, llama_jola_on, text, Cli, Folder};

/// Sidecars with their scales, in the order of application.
pub type Edits<'a> = &'a [(&'a Path, f32)];

/// Logits, row-major [positions, vocabulary].
pub struct Logits {
    /// All of them.
    pub values: Vec<f32>,
    /// Tokens of the vocabulary.
    pub n_vocab: usize,
}

impl Logits {
    /// One row for each position.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.n_vocab)
    }

    /// The most likely token of each position.
    pub fn argmax(&self) -> Vec<usize> {
        self.rows().map(argmax).collect()
    }

    /// For comparisons in which nothing may differ.
    pub fn bits(&self) -> Vec<u32> {
        self.values.iter().map(|value| value.to_bits()).collect()
    }
}

/// The most likely token of one position.
pub fn argmax(row: &[f32]) -> usize {
    (0..row.len())
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
        .expect("a vocabulary")
}

/// `llama-jola logits` with `options`.
pub fn of_llama(model: &Path, tokens: &[i32], edits: Edits<'_>, options: &[&str]) -> Logits {
    let mut cli = llama_jola_on("logits", model).args(options);
    for (path, scale) in edits {
        cli = cli.args(["--jola-scaled".into(), spec(path, *scale)]);
    }
    run(cli, tokens)
}

/// `FILE:SCALE`
pub fn spec(path: &Path, scale: f32) -> String {
    format!("{}:{scale}", text(path))
}

/// `1,2,3`
pub fn list(tokens: &[i32]) -> String {
    let tokens: Vec<String> = tokens.iter().map(i32::to_string).collect();
    tokens.join(",")
}

/// Adds tokens and output, runs, and reads what was written.
pub fn run(cli: Cli, tokens: &[i32]) -> Logits {
    let folder = Folder::new();
    let out: PathBuf = folder.path("logits.bin");
    cli.args(["--tokens".into(), list(tokens), "-o".into()])
        .args([&out])
        .succeed();
    let bytes = std::fs::read(&out).unwrap();
    let n_vocab = vocabulary();
    assert_eq!(bytes.len(), 4 * tokens.len() * n_vocab);
    let values: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|raw| f32::from_le_bytes(raw.try_into().unwrap()))
        .collect();
    assert!(values.iter().all(|value| value.is_finite()));
    Logits { values, n_vocab }
}

/// Tokens of the base model's vocabulary.
fn vocabulary() -> usize {
    let base = Gguf::open(base_model()).unwrap();
    let tokens = base.metadata().get("tokenizer.ggml.tokens").unwrap();
    tokens.as_array().unwrap().len()
}

/// ‖a − b‖ / ‖b‖ of the worst position; `a` and `b` are pairs of rows.
pub fn worst_error<'a>(pairs: impl Iterator<Item = (&'a [f32], &'a [f32])>) -> f64 {
    let errors: Vec<f64> = pairs.map(|(a, b)| relative_error(a, b)).collect();
    assert!(!errors.is_empty());
    errors.into_iter().fold(0.0, f64::max)
}

/// ‖a − b‖ / ‖b‖
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b));
    norm(differences) / norm(b.iter().map(|v| f64::from(*v)))
}

/// The worst position's relative error between all logits of two engines.
pub fn distance(a: &Logits, b: &Logits) -> f64 {
    assert_eq!(a.values.len(), b.values.len());
    worst_error(a.rows().zip(b.rows()))
}

/// The Euclidean norm.
pub fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}
