//! What `--dry-run` says, and that the memory it names is what a run takes.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::support::write_model;

fn run(folder: &Path, args: &str) -> Output {
    let mut command = testkit::command(env!("CARGO_BIN_EXE_jola-train-core"));
    command.current_dir(folder).args(args.split_whitespace());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn model_and_ten_rows() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    // All different: rows that are the same are not split.
    let row = |i: usize| {
        let (first, last) = (4 + i % 5, 4 + i / 5);
        format!("{{\"prompt\": \"t{first}t5t{last}\", \"completion\": \"t7\"}}\n")
    };
    let rows: String = (0..10).map(row).collect();
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    folder
}

/// Two layers of four heads of 16 numbers each: 256 numbers behind 16 gates.
#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let folder = model_and_ten_rows();
    let args = "-m tiny.gguf --data rows.jsonl -o edit.gguf --steps 20 --batch-size 3 --dry-run";
    let output = run(folder.path(), args);
    let report = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // A row is the begin token, three of the prompt, the answer and the end token.
    for line in [
        "rows       8 to train on, 2 to validate; the longest has 6 tokens",
        // Two full batches and one of two rows per epoch, with five positions a row.
        "tokens     40 per epoch, 270 in all steps",
        "steps      20: learn 4, prune 5, polish 11",
        "trainable  272 numbers, 16 of them gates",
        "memory     0.",
    ] {
        assert!(report.contains(line), "{line}:\n{report}");
    }
    let names = fs::read_dir(folder.path()).unwrap();
    assert_eq!(names.count(), 2); // model and rows
}

/// Of ten rows two validate. By default the others are seen four a step, as often as 150 steps
/// take; by the paper's code 20 times, eight a step.
#[test]
fn a_recipe_brings_its_epochs_and_rows_per_step() {
    let folder = model_and_ten_rows();
    for (recipe, steps) in [("default", "steps      150:"), ("paper", "steps      20:")] {
        let args =
            format!("-m tiny.gguf --data rows.jsonl -o edit.gguf --recipe {recipe} --dry-run");
        let report = text(&run(folder.path(), &args).stdout);
        assert!(report.contains(steps), "{steps}\n{report}");
    }
}

/// A limit that no recomputation can keep.
#[test]
fn too_little_memory_is_refused_before_the_run() {
    let folder = model_and_ten_rows();
    let args = "-m tiny.gguf --data rows.jsonl -o edit.gguf --steps 20 --max-memory 0.01";
    let output = run(folder.path(), args);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("and has 0.01 (--max-memory"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// The estimate against the peak that the kernel counted, on SmolLM2-135M with rows of many lengths,
/// also where layers are computed again to stay below a limit.
#[cfg(target_os = "linux")]
#[test]
fn the_memory_named_is_what_a_run_takes() {
    let model = std::env::var("JOLA_TEST_MODEL").expect("scripts/env.sh sets JOLA_TEST_MODEL");
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        let words: String = (0..60 + i * 7 % 40)
            .map(|j| format!("word{} ", i * 31 + j * j % 97))
            .collect();
        format!("{{\"prompt\": \"{i} {words}\", \"completion\": \"yes, number {i}\"}}\n")
    };
    let rows: String = (0..24).map(row).collect();
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let args = format!(
        "-m {model} --data rows.jsonl -o edit.gguf --steps 3 --batch-size 4 --valid-share 0 --lr 0.1 --dtype f32 --device cpu -t 2"
    );
    let estimated_and_taken = |args: &str| -> [f64; 2] {
        let report = text(&run(folder.path(), &format!("{args} --dry-run")).stdout);
        let memory = report.lines().find_map(|line| line.strip_prefix("memory"));
        let number = memory.unwrap().split_whitespace().next().unwrap();
        let estimate: f64 = number.parse().unwrap();
        // One run's peak differs from another's, 0.62 to 0.73 GiB were seen with weights in blocks:
        // what a run can take is the higher of two.
        let peak = peak_gib(folder.path(), args).max(peak_gib(folder.path(), args));
        assert!(
            (0.9..1.1).contains(&(estimate / peak)),
            "estimated {estimate}, took {peak} GiB\n{report}"
        );
        [estimate, peak]
    };
    let [estimate, peak] = estimated_and_taken(&args);
    let [_, quantised] = estimated_and_taken(&format!("{args} --weights quantised"));
    assert!(quantised < 0.6 * peak, "{quantised} of {peak} GiB");
    let limit = estimate / 2.0;
    let limited = peak_gib(folder.path(), &format!("{args} --max-memory {limit}"));
    assert!(
        limited < limit * 1.25 && limited < peak * 0.75,
        "--max-memory {limit} took {limited} GiB instead of {peak}"
    );
}

/// Runs a training and returns the most memory that it held, in GiB.
#[cfg(target_os = "linux")]
fn peak_gib(folder: &Path, args: &str) -> f64 {
    let mut command = testkit::command(env!("CARGO_BIN_EXE_jola-train-core"));
    command.current_dir(folder).args(args.split_whitespace());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        // The kernel keeps the high-water mark, so a look now and then misses little.
        if let Ok(text) = fs::read_to_string(&status) {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
    peak as f64 / f64::from(1 << 20)
}
