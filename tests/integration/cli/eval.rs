//! `llama-jola eval`.

use llama_jola::data::{read_rows, Prompt};
use llama_jola::eval::log_softmax;
use llama_jola::{Context, ContextParams, Model, ModelParams};
use serde_json::Value;

use crate::common::{alone, base_model, llama_jola_on, repository, text, Cli, Folder};
use crate::{base, logits, sidecars};

fn eval() -> Cli {
    let data = repository("examples/routing/test.jsonl");
    llama_jola_on("eval", &base_model()).args(["--data", text(&data), "--json"])
}

/// The predictions file, one object a line.
fn predictions(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// Runs with `--predictions` and checks what the result and the predictions share.
fn scored(cli: Cli, metric: &str, rows: usize) -> Vec<Value> {
    let folder = Folder::new();
    let path = folder.path("predictions.jsonl");
    let found = cli
        .args(["--metric", metric, "--predictions", text(&path)])
        .args(["--limit".into(), rows.to_string()])
        .succeed()
        .json();
    let keys: Vec<&str> = found
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        ["metric", "n", "correct", "accuracy", "ci95", "seconds"]
    );
    assert_eq!(found["metric"], metric);
    assert_eq!(found["n"], rows);
    let predictions = predictions(&path);
    let lines: Vec<u64> = predictions
        .iter()
        .map(|p| p["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, (1..=rows as u64).collect::<Vec<_>>());
    let correct = predictions.iter().filter(|p| p["correct"] == true).count();
    assert_eq!(found["correct"], correct);
    assert_eq!(found["accuracy"], correct as f64 / rows as f64);
    for p in &predictions {
        let accepted = p["accepted"].as_array().unwrap();
        let answer = p["answer"].as_str().unwrap();
        let is_accepted = accepted
            .iter()
            .any(|a| a.as_str().unwrap().trim() == answer);
        assert_eq!(p["correct"], is_accepted, "{p}");
    }
    predictions
}

/// Several rows in one batch must not see each other. In 32-bit floats: with quantised
/// weights the kernels for one row and for eight round differently, and near ties fall
/// either way.
#[test]
fn rows_answered_at_once_are_answered_the_same() {
    const ROWS: usize = 20;
    let answers = |at_once: &str| {
        let data = repository("examples/routing/test.jsonl");
        let cli = llama_jola_on("eval", base::f32_copy())
            .args(["--data", text(&data), "--json", "-n", "6", "-np", at_once])
            .args(["--jola-scaled", &logits::spec(&sidecars::golden(), 0.5)]);
        scored(cli, "exact", ROWS)
    };
    let one = answers("1");
    assert_eq!(one, answers("8"));
    let different = one.iter().filter(|p| p["answer"] != one[0]["answer"]);
    assert!(different.count() > ROWS / 4, "the answers are alike anyway");
}

/// The likeliest choice, found again by decoding every prompt with every choice by itself.
#[test]
fn choice_takes_the_likeliest() {
    const ROWS: usize = 3;
    let found = scored(eval().args(["-fa", "off"]), "choice", ROWS);

    let _alone = alone();
    let rows = read_rows(&repository("examples/routing/test.jsonl"), Some(ROWS)).unwrap();
    let mut choices: Vec<&str> = rows.iter().map(|row| row.completion.as_str()).collect();
    choices.sort_unstable();
    choices.dedup();
    assert!(choices.len() > 1, "nothing to choose from");
    let model = Model::load(base_model(), &ModelParams::default()).unwrap();
    let params = ContextParams {
        n_threads: 2,
        n_ctx: 512,
        ..ContextParams::default()
    };
    let mut context = Context::new(&model, &params).unwrap();
    for (row, found) in rows.iter().zip(&found) {
        let Prompt::Plain(prompt) = &row.prompt else {
            panic!("plain prompts")
        };
        let prompt = model.tokenize(prompt, true, true).unwrap();
        let mut score = |choice: &str| {
            let answer = model.tokenize(choice, false, true).unwrap();
            let tokens = [&prompt[..], &answer].concat();
            let logits = context.logits_of(&tokens).unwrap();
            let rows: Vec<&[f32]> = logits.chunks(model.n_vocab()).collect();
            let at = |i: usize| log_softmax(rows[prompt.len() + i - 1])[answer[i] as usize];
            (0..answer.len()).map(at).sum::<f64>()
        };
        let scores: Vec<f64> = choices.iter().map(|choice| score(choice)).collect();
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        assert_eq!(found["answer"], choices[best.unwrap()].trim(), "{scores:?}");
    }
}

/// All three forms of rows; a chat is put through the model's template.
#[test]
fn every_form_of_row() {
    let folder = Folder::new();
    let rows = [
        serde_json::json!({"prompt": "One, two,", "completion": " three", "references": [" 3"]}),
        serde_json::json!({"messages": [
            {"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "yes"}]}),
        serde_json::json!({"instruction": "Say yes.", "input": "", "answer": "yes"}),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let data = folder.file("rows.jsonl", lines.join("\n"));
    let out = folder.path("out");
    let found = llama_jola_on("eval", &base_model())
        .args([
            "--data",
            text(&data),
            "--predictions",
            text(&out),
            "-n",
            "4",
            "--json",
        ])
        .succeed()
        .json();
    assert_eq!(found["n"], 3);
    let predictions = predictions(&out);
    assert_eq!(
        predictions[0]["accepted"],
        serde_json::json!([" three", " 3"])
    );
    assert!(
        predictions[0]["answer"].as_str().unwrap().contains("three"),
        "{predictions:?}"
    );
}

#[test]
fn without_json_one_line_for_people() {
    let data = repository("examples/routing/test.jsonl");
    let shown = llama_jola_on("eval", &base_model())
        .args(["--data", text(&data), "--limit", "2", "-n", "2"])
        .succeed();
    assert_eq!(shown.stdout.lines().count(), 1, "{shown:#?}");
    assert!(shown.stdout.starts_with("exact: ") && shown.stdout.contains(" of 2, 95 % interval"));
}
