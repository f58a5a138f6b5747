//! A training process that is killed, or whose disk is full, and is continued.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::support::write_model;

const PROGRAM: &str = env!("CARGO_BIN_EXE_jola-train-core");
const RUN: &str = "-m tiny.gguf --data rows.jsonl -o edit.gguf --epochs 30 --batch-size 2 \
                   --sparsity 0.9,0.85 --lr 0.1 --checkpoint-every 0 -t 1";

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let rows: String = (0..10)
        .map(|i| {
            format!(
                "{{\"prompt\": \"t{}t{}t5\", \"completion\": \"t{}\"}}\n",
                4 + i % 6,
                9 - i % 3,
                7 + i % 2
            )
        })
        .collect();
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    folder
}

fn command(folder: &Path, args: &str) -> Command {
    let mut command = testkit::command(PROGRAM);
    command.current_dir(folder).args(args.split_whitespace());
    command
}

fn start(folder: &Path, args: &str) -> Child {
    let mut command = command(folder, args);
    command.stderr(Stdio::null()).spawn().unwrap()
}

fn finish(folder: &Path, args: &str) -> Output {
    command(folder, args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until `reached`, or the end of the process; kills it with SIGKILL and returns
/// whether that ended it.
#[must_use]
fn kill_when(mut child: Child, mut reached: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !reached() && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "never reached");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

fn lines(path: &Path) -> usize {
    let text = fs::read(path).unwrap_or_default();
    text.iter().filter(|byte| **byte == b'\n').count()
}

fn half_written(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().ends_with(".tmp"))
}

/// Metrics without the speed, which depends on the clock.
fn metrics(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("tokens_per_second");
        value
    });
    lines.collect()
}

/// The bytes and metrics of a run that nobody disturbs.
fn undisturbed(folder: &Path) -> (Vec<u8>, Vec<serde_json::Value>) {
    let output = finish(folder, RUN);
    assert!(output.status.success(), "{}", stderr(&output));
    let run_dir = folder.join("edit.run");
    let result = (
        fs::read(folder.join("edit.gguf")).unwrap(),
        metrics(&run_dir.join("metrics.jsonl")),
    );
    assert!(!run_dir.join("checkpoint.safetensors").exists());
    fs::remove_file(folder.join("edit.gguf")).unwrap();
    fs::remove_dir_all(run_dir).unwrap();
    result
}

#[test]
fn killed_at_any_moment_a_run_continues_to_the_same_bytes() {
    let folder = folder();
    let path = folder.path();
    let whole = undisturbed(path);
    let resume = format!("{RUN} --resume");
    let (run_dir, file) = (path.join("edit.run"), path.join("edit.run/metrics.jsonl"));
    let mut killed = 0;
    // Between checkpoints, before the first among them: 120 steps and 5 validations.
    for count in [0, 1, 20, 40, 77, 90, 119] {
        let reached = || run_dir.exists() && lines(&file) >= count;
        killed += usize::from(kill_when(start(path, &resume), reached));
        assert!(!path.join("edit.gguf").exists() || count == 119);
    }
    assert!(
        killed >= 5,
        "only {killed} runs lived until they were killed"
    );
    let output = finish(path, &resume);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(path.join("edit.gguf")).unwrap(), whole.0);
    assert_eq!(metrics(&file), whole.1);
}

#[test]
fn killed_while_it_writes_a_checkpoint_a_run_continues_to_the_same_bytes() {
    let folder = folder();
    let path = folder.path();
    let whole = undisturbed(path);
    let resume = format!("{RUN} --resume");
    let run_dir = path.join("edit.run");
    let checkpoint = run_dir.join("checkpoint.safetensors");
    let mut killed = 0;
    for _ in 0..6 {
        // Not the first: something must be there to lose.
        let writing = || checkpoint.exists() && half_written(&run_dir);
        killed += usize::from(kill_when(start(path, &resume), writing));
    }
    assert!(killed >= 1, "every run ended before it was killed");
    let output = finish(path, &resume);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(path.join("edit.gguf")).unwrap(), whole.0);
    assert_eq!(metrics(&run_dir.join("metrics.jsonl")), whole.1);
    assert!(!half_written(&run_dir));
}

/// No file may grow beyond 1 kB, as on a full disk: neither metrics nor checkpoints nor the
/// sidecar can be written. What was there stays, and with room the run ends as it would have.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    let folder = folder();
    let path = folder.path();
    let whole = undisturbed(path);
    let checkpoint = path.join("edit.run/checkpoint.safetensors");
    let file = path.join("edit.run/metrics.jsonl");
    assert!(kill_when(start(path, RUN), || lines(&file) >= 30));
    let before = fs::read(&checkpoint).unwrap();
    let script = format!("trap '' XFSZ; ulimit -f 2; exec {PROGRAM} {RUN} --resume");
    let mut full = testkit::command("sh");
    let output = full
        .current_dir(path)
        .args(["-c", &script])
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for message in [
        "cannot write metrics",
        "the run goes on, the checkpoint of step ",
        "edit.gguf: cannot write it",
        "with --resume",
    ] {
        assert!(text.contains(message), "{message}: {text}");
    }
    // Once of the run directory, once of the result.
    assert_eq!(text.matches("File too large").count(), 2, "{text}");
    assert_eq!(fs::read(&checkpoint).unwrap(), before);
    let output = finish(path, &format!("{RUN} --resume"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(path.join("edit.gguf")).unwrap(), whole.0);
    assert_eq!(metrics(&file), whole.1);
}

/// The folder for the result goes away while it is trained.
#[test]
fn a_result_that_cannot_be_written_is_kept() {
    let folder = folder();
    let path = folder.path();
    let whole = undisturbed(path);
    let run = "-m tiny.gguf --data rows.jsonl -o out/edit.gguf --run-dir edit.run --epochs 30 \
               --batch-size 2 --sparsity 0.9,0.85 --lr 0.1 -t 1";
    let (out, file) = (path.join("out"), path.join("edit.run/metrics.jsonl"));
    fs::create_dir(&out).unwrap();
    let mut command = command(path, run);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    while !file.exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    fs::remove_dir(&out).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for message in [
        "out/edit.gguf: cannot write it",
        "edit.run",
        "with --resume",
    ] {
        assert!(text.contains(message), "{message}: {text}");
    }
    assert!(path.join("edit.run/checkpoint.safetensors").exists());
    fs::create_dir(&out).unwrap();
    let output = finish(path, &format!("{run} --resume"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(out.join("edit.gguf")).unwrap(), whole.0);
    assert_eq!(metrics(&file), whole.1);
    assert!(!path.join("edit.run/checkpoint.safetensors").exists());
}

/// Of a run that changes nothing, the loss tells which rows it validates with.
#[test]
fn rows_held_back_stay_held_back_under_another_seed() {
    let folder = folder();
    let path = folder.path();
    let run = "-m tiny.gguf --data rows.jsonl --epochs 30 --batch-size 2 --checkpoint-every 0 \
               -t 1 --method ungated --lr 1e-30 --patience 0";
    let losses = |name: &str| -> Vec<f64> {
        let records = metrics(&path.join(name).join("metrics.jsonl"));
        let records = records
            .iter()
            .filter(|record| record.get("validation").is_some());
        records
            .map(|record| record["validation"]["loss"].as_f64().unwrap())
            .collect()
    };
    for (name, seed) in [("one", 42), ("other", 1)] {
        let output = finish(path, &format!("{run} -o {name}.gguf --seed {seed}"));
        // What changes next to nothing may be no better than the unedited model.
        assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "{}",
            stderr(&output)
        );
    }
    let (one, other) = (losses("one.run")[0], losses("other.run")[0]);
    assert!((one - other).abs() > 1e-3, "{one} {other}");
    let file = path.join("edit.run/metrics.jsonl");
    let edit = format!("{run} -o edit.gguf");
    assert!(kill_when(start(path, &edit), || lines(&file) >= 10));
    let before = losses("edit.run").len();
    let output = finish(path, &format!("{edit} --resume --allow-changes --seed 1"));
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{}",
        stderr(&output)
    );
    let found = losses("edit.run");
    assert!(found.len() > before);
    assert!(found.iter().all(|loss| *loss == one), "{found:?} {one}");
    let config = fs::read_to_string(path.join("edit.run/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(
        (&config["seed"], &config["split_seed"]),
        (&1.into(), &42.into())
    );
}

#[test]
fn a_run_continues_only_with_the_same_base_data_and_settings() {
    let folder = folder();
    let path = folder.path();
    let file = path.join("edit.run/metrics.jsonl");
    assert!(kill_when(start(path, RUN), || lines(&file) >= 5));
    let refused = |args: &str, message: &str| {
        let output = finish(path, args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(message), "{message}: {text}");
        assert!(!path.join("edit.gguf").exists());
    };
    refused(RUN, "edit.run holds an unfinished run");
    let resume = format!("{RUN} --resume");
    refused(
        &resume.replace("--lr 0.1", "--lr 0.01"),
        "lr was 0.1, is 0.01",
    );
    refused(&format!("{resume} --seed 1"), "seed was 42, is 1");
    refused(
        &format!("{resume} --method additive"),
        "method was \"jola\", is \"additive\"",
    );
    refused(
        &format!("{resume} --allow-changes --method additive"),
        "method was \"jola\", is \"additive\"",
    );
    let rows = fs::read_to_string(path.join("rows.jsonl")).unwrap();
    fs::write(path.join("rows.jsonl"), rows.replacen("t9", "t8", 1)).unwrap();
    refused(&resume, "data_sha256 was ");
    fs::write(path.join("rows.jsonl"), rows).unwrap();
    let model = fs::read(path.join("tiny.gguf")).unwrap();
    let mut other = model.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(path.join("tiny.gguf"), other).unwrap();
    refused(&resume, "base_sha256 was ");
    fs::write(path.join("tiny.gguf"), model).unwrap();
    let output = finish(
        path,
        &format!(
            "{} --allow-changes",
            resume.replace("--lr 0.1", "--lr 0.01")
        ),
    );
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The message names the step, the checkpoint before it is kept, and a lower rate saves the
/// run.
#[test]
fn a_loss_that_is_no_number_keeps_the_last_good_checkpoint() {
    let folder = folder();
    let path = folder.path();
    let file = path.join("edit.run/metrics.jsonl");
    assert!(kill_when(start(path, RUN), || lines(&file) >= 20));
    let resume = format!("{RUN} --resume --allow-changes");
    let output = finish(path, &resume.replace("--lr 0.1", "--lr 1e39"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("the loss is ") && text.contains(" at step "),
        "{text}"
    );
    assert!(text.contains("its state after step "), "{text}");
    assert!(!path.join("edit.gguf").exists());
    let output = finish(path, &resume);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(path.join("edit.gguf").exists());
}
