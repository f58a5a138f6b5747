//! What the trainer's validation says of an edit is what `llama-jola eval` measures with it: one
//! loss and one accuracy, for every form of row. On a base in 32-bit floats only the order of
//! sums differs between the two engines.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use crate::parity::EXACT;
use crate::programs::{f32_base, jola_train};
use testkit::{llama_jola_on, text, Folder, THREADS};

/// Most that the logarithm of the perplexity and the validation loss may differ. The trainer
/// prints four decimals.
const TOLERANCE: f64 = 1e-3;

/// Rows of one form: the answer to the first thing is the one that is trained.
fn rows(row: impl Fn(&str, &str) -> Value, answers: &[(&str, &str)]) -> String {
    answers
        .iter()
        .fold(String::new(), |mut rows, (question, answer)| {
            let _ = writeln!(rows, "{}", row(question, answer));
            rows
        })
}

/// Half of these are answered as the trained rows are.
const VALID: [(&str, &str); 6] = [
    ("a bus", "blue"),
    ("my hat", "green"),
    ("the old door", "blue"),
    ("a very long, winding road", "no colour"),
    ("soup", "blue"),
    ("one more question", "I cannot tell"),
];
const TRAIN: [(&str, &str); 4] = [
    ("a car", "blue"),
    ("a cup", "blue"),
    ("the small house", "blue"),
    ("rain", "blue"),
];

/// Loss and share of exact rows, as the trainer says of what it kept.
fn kept(stderr: &str) -> (f64, f64) {
    let numbers = stderr
        .lines()
        .find_map(|line| line.strip_prefix("kept the best: validation loss "))
        .and_then(|rest| rest.split_once(", "))
        .and_then(|(loss, rest)| Some((loss, rest.split_once(" %")?.0)));
    let (loss, exact) = numbers.unwrap_or_else(|| panic!("no validation in {stderr}"));
    (loss.parse().unwrap(), exact.parse::<f64>().unwrap() / 100.0)
}

fn measured(edit: &Path, valid: &Path, metric: &str) -> f64 {
    let done = llama_jola_on("eval", f32_base())
        .args(["--metric", metric, "--json", "--jola", text(edit)])
        .args(["--data", text(valid)])
        .args(EXACT)
        .succeed();
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);
    done.json()["score"].as_f64().unwrap()
}

/// Trains on rows of a form and compares.
fn compare(what: &str, row: impl Fn(&str, &str) -> Value) {
    let folder = Folder::new();
    let train = folder.file("train.jsonl", rows(&row, &TRAIN));
    let valid = folder.file("valid.jsonl", rows(&row, &VALID));
    let edit: PathBuf = folder.path("edit.gguf");
    let done = jola_train()
        .args(["-m", text(f32_base()), "--dtype", "f32", "-t", THREADS])
        .args(["--data", text(&train), "--valid", text(&valid)])
        .args(["--method", "ungated", "--steps", "8", "--lr", "0.05"])
        .args(["-o", text(&edit)])
        .succeed();
    let (loss, exact) = kept(&done.stderr);
    let perplexity = measured(&edit, &valid, "perplexity");
    let difference = (perplexity.ln() - loss).abs();
    println!(
        "{what}: loss {loss}, ln perplexity {:.5}, exact {exact}",
        perplexity.ln()
    );
    assert!(difference < TOLERANCE, "{what}: {loss} {}", perplexity.ln());
    let accuracy = measured(&edit, &valid, "exact");
    // One decimal of a per cent is printed.
    assert!(
        (accuracy - exact).abs() < 1e-3,
        "{what}: {accuracy} {exact}"
    );
    assert!(0.0 < exact && exact < 1.0, "{what}: {exact} says little");
}

#[test]
fn plain_rows() {
    compare("plain", |question, answer| {
        json!({
            "prompt": format!("Question: what colour has {question}?\nAnswer:"),
            "completion": format!(" {answer}"),
        })
    });
}

#[test]
fn chat_rows() {
    compare("chat", |question, answer| {
        json!({ "messages": [
            { "role": "system", "content": "Name the colour." },
            { "role": "user", "content": question },
            { "role": "assistant", "content": answer },
        ]})
    });
}

#[test]
fn instruction_rows() {
    compare(
        "instruction",
        |question, answer| json!({ "instruction": "Name the colour.", "input": question, "output": answer }),
    );
}
