//! Logits as both commands write them, and how far two of them are apart.

use std::path::{Path, PathBuf};

use jola_edit::gguf::Gguf;

use crate::common::{self, base_model, Cli, Folder};

/// Sidecars with their scales, in the order of application.
pub type Edits<'a> = &'a [(&'a Path, f32)];

/// Logits, row-major [positions, vocabulary].
pub struct Logits {
    pub values: Vec<f32>,
    pub n_vocab: usize,
}

impl Logits {
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.n_vocab)
    }

    /// The most likely token of each position.
    pub fn argmax(&self) -> Vec<usize> {
        self.rows().map(argmax).collect()
    }

    pub fn bits(&self) -> Vec<u32> {
        self.values.iter().map(|value| value.to_bits()).collect()
    }
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len())
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
        .expect("a vocabulary")
}

/// `llama-jola logits` with `options`.
pub fn of_llama(model: &Path, tokens: &[i32], edits: Edits<'_>, options: &[&str]) -> Logits {
    let mut cli = common::llama_jola_on("logits", model).args(options);
    for (path, scale) in edits {
        cli = cli.args(["--jola-scaled".into(), spec(path, *scale)]);
    }
    run(cli, tokens)
}

/// `jola-train logits`.
pub fn of_trainer(model: &Path, tokens: &[i32], edits: Edits<'_>) -> Logits {
    let mut cli = common::jola_train_logits(model);
    for (path, scale) in edits {
        cli = cli.args(["--jola".into(), spec(path, *scale)]);
    }
    run(cli, tokens)
}

/// `FILE:SCALE`
pub fn spec(path: &Path, scale: f32) -> String {
    format!("{}:{scale}", common::text(path))
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
    let errors = pairs.map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        let differences = a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b));
        norm(differences) / norm(b.iter().map(|v| f64::from(*v)))
    });
    let errors: Vec<f64> = errors.collect();
    assert!(!errors.is_empty());
    errors.into_iter().fold(0.0, f64::max)
}

/// The worst position's relative error between all logits of two engines.
pub fn distance(a: &Logits, b: &Logits) -> f64 {
    assert_eq!(a.values.len(), b.values.len());
    worst_error(a.rows().zip(b.rows()))
}

pub fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// How well `found` predicts like `expected`, over all positions.
#[derive(Debug)]
pub struct Agreement {
    /// Share of positions with the same most likely token.
    pub same: f64,
    /// The same among positions where the best token of `expected` leads by `clear_lead`.
    pub same_where_clear: f64,
    /// Share of positions with that lead.
    pub clear: f64,
    /// Mean over positions of KL(expected ‖ found), in nats.
    pub mean_kl: f64,
}

/// Compares two engines' predictions. `clear_lead` is in logits.
pub fn agreement(found: &Logits, expected: &Logits, clear_lead: f32) -> Agreement {
    assert_eq!(found.values.len(), expected.values.len());
    let n = expected.rows().len() as f64;
    let (mut same, mut clear, mut same_clear, mut kl) = (0.0, 0.0, 0.0, 0.0);
    for (found, expected) in found.rows().zip(expected.rows()) {
        let best = argmax(expected);
        let agrees = f64::from(argmax(found) == best);
        let others = expected.iter().enumerate().filter(|(i, _)| *i != best);
        let second = others.map(|(_, v)| *v).fold(f32::NEG_INFINITY, f32::max);
        same += agrees;
        if expected[best] - second >= clear_lead {
            clear += 1.0;
            same_clear += agrees;
        }
        kl += divergence(expected, found);
    }
    assert!(clear > 0.0, "no position has a clear best token");
    Agreement {
        same: same / n,
        same_where_clear: same_clear / clear,
        clear: clear / n,
        mean_kl: kl / n,
    }
}

/// KL(p ‖ q) of two rows of logits, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (
        llama_jola::eval::log_softmax(p),
        llama_jola::eval::log_softmax(q),
    );
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[test]
fn divergence_is_that_of_the_textbook() {
    // KL of (3/4, 1/4) from (1/2, 1/2): ln 2 − H = 3/4·ln(3/2) + 1/4·ln(1/2)
    let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
    let found = divergence(&[3f32.ln(), 0.0], &[7.0, 7.0]);
    assert!((found - expected).abs() < 1e-6, "{found}");
}
