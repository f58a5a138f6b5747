//! `llama-jola eval`.

use llama_jola::eval::bleu;
use serde_json::{json, Value};

use crate::base::f32_base;
use testkit::{base_model, llama_jola_on, logits, repository, sidecars, text, Cli, Folder};

fn eval_on(base: &std::path::Path) -> Cli {
    let data = repository("examples/routing/test.jsonl");
    llama_jola_on("eval", base).args(["--data", text(&data), "--json"])
}

fn eval() -> Cli {
    eval_on(&base_model())
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
        ["metric", "n", "correct", "accuracy", "score", "ci95", "seconds"]
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
    assert_eq!(found["score"], found["accuracy"]);
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
        let cli = eval_on(f32_base())
            .args(["-n", "6", "-np", at_once])
            .args(["--jola-scaled", &logits::spec(&sidecars::golden(), 0.5)]);
        scored(cli, "exact", ROWS)
    };
    let one = answers("1");
    assert_eq!(one, answers("8"));
    let different = one.iter().filter(|p| p["answer"] != one[0]["answer"]);
    assert!(different.count() > ROWS / 4, "the answers are alike anyway");
}

/// All three forms of rows; a chat is put through the model's template.
#[test]
fn every_form_of_row() {
    let folder = Folder::new();
    let rows = [
        json!({"prompt": "One, two,", "completion": " three", "references": [" 3"]}),
        json!({"messages": [
            {"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "yes"}]}),
        json!({"instruction": "Say yes.", "input": "", "answer": "yes"}),
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
    assert_eq!(predictions[0]["accepted"], json!([" three", " 3"]));
    assert!(
        predictions[0]["answer"].as_str().unwrap().contains("three"),
        "{predictions:?}"
    );
}

/// What is said to the model decides, not the test: outputs of one run, scored again here.
#[test]
fn generated_text_is_scored_against_all_references() {
    let folder = Folder::new();
    let rows = [
        json!({"prompt": "One, two, three,", "completion": " four, five, six, seven, eight",
            "references": [" 4, 5, 6", " four, five, six"]}),
        json!({"prompt": "The capital of France is", "completion": " Paris."}),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let data = folder.file("rows.jsonl", lines.join("\n"));
    let out = folder.path("out");
    let run = |metric: &str| {
        let cli = llama_jola_on("eval", &base_model()).args(["--data", text(&data), "--json"]);
        let cli = cli.args(["-n", "8", "--metric", metric, "--predictions", text(&out)]);
        (cli.succeed().json(), predictions(&out))
    };
    let strings = |p: &Value| -> Vec<String> {
        let accepted = p["accepted"].as_array().unwrap().iter();
        accepted.map(|a| a.as_str().unwrap().to_owned()).collect()
    };

    let (found, said) = run("bleu");
    assert_eq!((&found["metric"], &found["n"]), (&json!("bleu"), &json!(2)));
    assert_eq!(strings(&said[0]).len(), 3);
    let mut sums = [0.0; bleu::COUNTS];
    for p in &said {
        let counts = bleu::counts(p["answer"].as_str().unwrap(), &strings(p));
        sums.iter_mut().zip(counts).for_each(|(sum, c)| *sum += c);
    }
    assert!(sums[0] > 3.0, "the model knows what follows: {said:?}");
    // serde_json reads numbers to 15 digits only.
    let close = |found: &Value, expected: f64| {
        assert!(
            (found.as_f64().unwrap() / expected - 1.0).abs() < 1e-12,
            "{found} {expected}"
        );
    };
    close(&found["score"], bleu::score(&sums));

    let (found, again) = run("rouge-l");
    let score = |p: &Value| p["score"].as_f64().unwrap();
    close(&found["score"], (score(&again[0]) + score(&again[1])) / 2.0);
    assert_eq!(said[0]["answer"], again[0]["answer"]);
    assert!(found.get("correct").is_none() && found.get("accuracy").is_none());
}

/// `match` looks for the first choice named; `exact` wants the answer and nothing else.
/// Choices are those of the whole file, however few rows are scored.
#[test]
fn answers_among_other_words() {
    let folder = Folder::new();
    let rows = [
        json!({"prompt": "Repeat after me: it is clearly red, not blue.\nit is clearly red, not blue.\nit is clearly red, not blue.\n",
            "completion": "red"}),
        json!({"prompt": "-", "completion": "blue"}),
        json!({"prompt": "-", "completion": "it", "choices": ["it", "they"]}),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let data = folder.file("rows.jsonl", lines.join("\n"));
    let run = |metric: &str| {
        let args = [
            "--data",
            text(&data),
            "--metric",
            metric,
            "--limit",
            "1",
            "--json",
        ];
        llama_jola_on("eval", &base_model())
            .args(args)
            .succeed()
            .json()
    };
    assert_eq!(
        (&run("match")["correct"], &run("exact")["correct"]),
        (&json!(1), &json!(0))
    );
}

/// One run with --compare says what two runs say, and which rows make the difference.
#[test]
fn compare_is_two_runs_in_one() {
    const ROWS: usize = 16;
    let folder = Folder::new();
    let out = folder.path("out");
    let edit = logits::spec(&sidecars::golden(), 0.5);
    let run = |args: &[&str]| {
        eval()
            .args(["--metric", "choice", "--limit", "16"])
            .args(args)
    };
    let both = run(&[
        "--compare",
        "--jola-scaled",
        &edit,
        "--predictions",
        text(&out),
    ]);
    let mut both = both.succeed().json();
    let mut alone = [run(&[]), run(&["--jola-scaled", &edit])].map(|cli| cli.succeed().json());
    for report in alone.iter_mut().chain([&mut both["unedited"]]) {
        report["seconds"].take();
    }
    both["edited"]["seconds"].take();
    assert_eq!([&both["unedited"], &both["edited"]], [&alone[0], &alone[1]]);

    let lines = predictions(&out);
    assert_eq!(lines.len(), 2 * ROWS);
    let (unedited, edited) = lines.split_at(ROWS);
    assert!(unedited.iter().all(|p| p["edited"] == false));
    assert!(edited.iter().all(|p| p["edited"] == true));
    assert!(unedited
        .iter()
        .zip(edited)
        .any(|(a, b)| a["answer"] != b["answer"]));
    let only = |a: &[Value], b: &[Value]| {
        let pairs = a.iter().zip(b);
        pairs
            .filter(|(a, b)| a["correct"] == true && b["correct"] == false)
            .count()
    };
    let test = &both["test"];
    assert_eq!(test["name"], "mcnemar");
    assert_eq!(test["only_unedited"], only(unedited, edited));
    assert_eq!(test["only_edited"], only(edited, unedited));
    let gained = only(edited, unedited) as f64 - only(unedited, edited) as f64;
    assert_eq!(both["difference"], gained / ROWS as f64);
}

#[test]
fn without_json_lines_for_people() {
    let data = repository("examples/routing/test.jsonl");
    let eval = |args: &[&str]| {
        let cli = llama_jola_on("eval", &base_model()).args(["--data", text(&data)]);
        cli.args(["--limit", "2", "-n", "2"])
            .args(args)
            .succeed()
            .stdout
    };
    let shown = eval(&[]);
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(
        shown.starts_with("exact: ") && shown.contains(" of 2, 95 % interval"),
        "{shown}"
    );
    let edit = sidecars::golden();
    let shown = eval(&["--compare", "--metric", "perplexity", "--jola", text(&edit)]);
    let starts: Vec<&str> = shown
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert_eq!(starts, ["unedited", "edited", "difference", "p"], "{shown}");
    assert!(shown.contains("paired bootstrap"));
}

/// What can only be wrong with an evaluation.
#[test]
fn nothing_to_score() {
    let folder = Folder::new();
    let row = r#"{"prompt": "a b c d e f g h", "completion": "x"}"#;
    let data = folder.file("rows.jsonl", format!("{row}\n{row}\n"));
    let eval = || llama_jola_on("eval", &base_model()).args(["--data", text(&data)]);
    eval()
        .args(["--compare"])
        .fail(1, &["nothing to compare", "--jola"]);
    for metric in ["choice", "match"] {
        let texts = ["rows.jsonl", "all completions are the same"];
        eval().args(["--metric", metric]).fail(1, &texts);
    }
    eval().args(["--limit", "0"]).fail(1, &["--limit 0"]);
    let empty = folder.file("empty.jsonl", r#"{"prompt": "", "completion": "x"}"#);
    for metric in ["exact", "perplexity"] {
        let cli = llama_jola_on("eval", &base_model()).args(["--data", text(&empty)]);
        let texts = ["empty.jsonl", "line 1", "the prompt is empty"];
        cli.args(["--metric", metric]).fail(1, &texts);
    }
    for metric in ["exact", "perplexity"] {
        let texts = ["rows.jsonl", "line 1: ", "do not fit the context of 4"];
        eval().args(["--metric", metric, "-c", "4"]).fail(1, &texts);
    }
}

/// A run on few rows with an edit's file given by `args`, on a base whose weights are not
/// quantised: what batches of another shape round there moves a score by a third and more, by
/// the processor (llama.cpp has other kernels for AMX).
fn on_few(args: &[&str]) -> Value {
    eval_on(f32_base())
        .args(["-n", "6", "--limit", "2"])
        .args(args)
        .succeed()
        .json()
}

/// The same score, but for what the cache of 16-bit floats rounds in batches of another shape:
/// four times the 0.008 that were seen. `sets/scores.rs` compares them to the last digits.
fn close(found: &Value, expected: &Value) {
    assert_eq!(found["n"], expected["n"]);
    let log = |report: &Value| report["score"].as_f64().unwrap().ln();
    assert!(
        (log(found) - log(expected)).abs() < 0.03,
        "{found}\n{expected}"
    );
}

const PERPLEXITY: [&str; 2] = ["--metric", "perplexity"];

#[test]
fn several_edits_are_scored_at_once() {
    let folder = Folder::new();
    let golden = text(&sidecars::golden()).to_owned();
    let empty = folder.path("empty.gguf");
    sidecars::empty().write(&empty).unwrap();
    let path = folder.path("each.jsonl");
    let each = on_few(
        &[
            &PERPLEXITY[..],
            &["--compare", "--predictions", text(&path)],
            &["--each", &golden, text(&empty)],
        ]
        .concat(),
    );
    let compared = on_few(&[&PERPLEXITY[..], &["--jola", &golden, "--compare"]].concat());
    let plain = on_few(&PERPLEXITY);
    let cases = each["cases"].as_array().unwrap();
    assert_eq!(cases[0]["name"], golden);
    close(&cases[0], &compared["edited"]);
    close(&each["unedited"], &plain);
    close(&compared["unedited"], &plain);
    close(&cases[1], &plain);
    assert_eq!(cases[0]["test"]["name"], "paired-bootstrap");
    let lines = predictions(&path);
    let names: Vec<&str> = lines.iter().map(|l| l["edit"].as_str().unwrap()).collect();
    let expected = ["unedited", &golden, text(&empty)].map(|name| [name; 2]);
    assert_eq!(names, expected.concat());
}

#[test]
fn strengths_are_swept_at_once_and_drawn() {
    let folder = Folder::new();
    let golden = text(&sidecars::golden()).to_owned();
    let plot = folder.path("curve.svg");
    let sweep = on_few(
        &[
            &PERPLEXITY[..],
            &["--jola", &golden, "--strength", "0,0.5,-1"],
            &["--plot", text(&plot)],
        ]
        .concat(),
    );
    let cases = sweep["cases"].as_array().unwrap();
    for (case, strength) in cases.iter().zip([0.0, 0.5, -1.0]) {
        assert_eq!(case["strength"], strength);
        let spec = logits::spec(&sidecars::golden(), strength);
        close(
            case,
            &on_few(&[&PERPLEXITY[..], &["--jola-scaled", &spec]].concat()),
        );
    }
    let drawn = std::fs::read_to_string(plot).unwrap();
    assert_eq!(drawn.matches("<circle").count(), 3);
    let refused = |args: &[&str], code, says: &[&str]| {
        eval().args(["--limit", "2"]).args(args).fail(code, says);
    };
    refused(
        &["--strength", "1"],
        1,
        &["--strength needs an edit", "--jola"],
    );
    refused(
        &["--jola", &golden, "--strength", "inf"],
        1,
        &["expected a finite number"],
    );
    let other = folder.file("other.gguf", "no GGUF");
    refused(&["--each", &golden, text(&other)], 1, &["other.gguf"]);
}

/// The response's tokens count as generated (`sets/scores.rs` says what the numbers are).
#[test]
fn tokens_that_an_edit_acts_on_are_chosen() {
    let golden = text(&sidecars::golden()).to_owned();
    let score = |args: &[&str]| on_few(&[&PERPLEXITY[..], args].concat())["score"].as_f64();
    let on = |which| score(&["--jola", &golden, "--jola-tokens", which]).unwrap();
    let scores = ["all", "prompt", "generated"].map(on);
    assert_eq!(Some(scores[0]), score(&["--jola", &golden]));
    let plain = score(&[]).unwrap();
    let all = [scores[0], scores[1], scores[2], plain];
    for (i, a) in all.iter().enumerate() {
        assert!(
            all[..i].iter().all(|b| (a / b).ln().abs() > 1e-3),
            "{all:?}"
        );
    }
    // All ways to name edits, and answers.
    let named = |options: &[&str]| on_few(&[options, &["--jola-tokens", "generated"]].concat());
    let each = named(&["--metric", "perplexity", "--each", &golden, "--compare"]);
    close(&each["cases"][0], &json!({"n": 2, "score": scores[2]}));
    close(&each["unedited"], &json!({"n": 2, "score": plain}));
    let said = named(&["--metric", "rouge-l", "--jola", &golden, "--compare"]);
    assert_eq!(said["edited"]["n"], 2);
    eval()
        .args(["--jola-tokens", "prompt"])
        .fail(1, &["--jola-tokens needs an edit", "--jola"]);
}

/// Where llama.cpp would stop the process.
#[test]
fn small_micro_batches_are_no_obstacle() {
    on_few(&[&PERPLEXITY[..], &["-ub", "16"]].concat());
}
