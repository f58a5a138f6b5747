//! The programs: exit codes, messages, and no output file where something is wrong.

use std::path::Path;
use std::process::Output;

use jola_edit::sidecar::RowFormat;
use jola_edit::{BaseWeights, Sidecar, Training};
use jola_trainer::train::PATH_ROWS;
use tempfile::TempDir;

use super::support::write_model;

const ROWS: &str = r#"{"prompt": "t4t5t6", "completion": "t7"}
{"prompt": "t5t5", "completion": "t8"}
{"prompt": "t6t9t4t4", "completion": "t9"}
"#;

/// Rows that an edit can learn, with two answers: guessing between them has a loss of ln 2.
const QUESTIONS: &str = r#"{"prompt": "t5t5", "completion": "t8"}
{"prompt": "t5t5t5t5", "completion": "t8"}
{"prompt": "t6t6", "completion": "t9"}
{"prompt": "t6t6t6t6", "completion": "t9"}
"#;

/// A folder with a model and rows.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    std::fs::write(folder.path().join("rows.jsonl"), ROWS).unwrap();
    folder
}

fn run(program: &str, folder: &Path, args: &str) -> Output {
    let mut command = testkit::command(program);
    command.current_dir(folder).args(args.split_whitespace());
    command.output().unwrap()
}

/// On one thread: threads that wait for each other are slow where the machine is busy.
fn train(folder: &Path, args: &str) -> Output {
    let args = format!("{args} -t 1");
    run(env!("CARGO_BIN_EXE_jola-train-core"), folder, &args)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a training that must fail, and checks that no output is left behind.
fn failure(folder: &Path, args: &str) -> (i32, String) {
    let output = train(folder, &format!("{args} -o edit.gguf"));
    assert!(!folder.join("edit.gguf").exists(), "{args}");
    (output.status.code().unwrap(), stderr(&output))
}

#[test]
fn a_run_writes_a_sidecar_and_says_how_fast_it_was() {
    let folder = folder();
    let args = "-m tiny.gguf --data rows.jsonl -o edit.gguf --steps 8 --batch-size 2 --lr 0.1";
    let output = train(folder.path(), args);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains(" tokens/s") && text.contains("trained in "),
        "{text}"
    );
    let sidecar = Sidecar::read(folder.path().join("edit.gguf")).unwrap();
    assert_eq!(
        (
            sidecar.block_count,
            sidecar.head_dim,
            sidecar.method.as_str()
        ),
        (2, 16, "jola")
    );
    let first = std::fs::read(folder.path().join("edit.gguf")).unwrap();
    assert!(train(folder.path(), args).status.success());
    assert_eq!(
        first,
        std::fs::read(folder.path().join("edit.gguf")).unwrap()
    );

    let args = "logits -m tiny.gguf --jola edit.gguf:0.5 --tokens 1,5,6 -o logits.bin";
    assert!(train(folder.path(), args).status.success());
    let logits = std::fs::read(folder.path().join("logits.bin")).unwrap();
    assert_eq!(logits.len(), 3 * testkit::tiny::VOCABULARY * 4);
}

#[test]
fn both_number_formats_train_and_are_noted() {
    let folder = folder();
    std::fs::write(folder.path().join("questions.jsonl"), QUESTIONS).unwrap();
    let trained = |dtype: &str| {
        let args = format!(
            "-m tiny.gguf --data questions.jsonl --valid questions.jsonl --steps 60 --lr 0.1 --kl 0.02 \
             --dtype {dtype} -o {dtype}.gguf"
        );
        let output = train(folder.path(), &args);
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains(&format!("; {dtype}, 1 CPU threads")),
            "{text}"
        );
        let sidecar = Sidecar::read(folder.path().join(format!("{dtype}.gguf"))).unwrap();
        let noted = sidecar.train.get("dtype").and_then(|dtype| dtype.as_str());
        assert_eq!(noted, Some(dtype));
        let best = text
            .lines()
            .find_map(|line| line.strip_prefix("kept the best: validation loss "));
        let loss = best.and_then(|rest| rest.split(',').next()?.parse::<f64>().ok());
        (sidecar.layers, loss.unwrap_or_else(|| panic!("{text}")))
    };
    let (single, single_loss) = trained("f32");
    let (half, half_loss) = trained("bf16");
    assert_ne!(single, half);
    for loss in [single_loss, half_loss] {
        println!("validation loss {loss}");
        assert!(loss < 0.5 * 2f64.ln(), "{loss}");
    }
}

#[test]
fn test_rows_measure_every_stage_and_the_unedited_model() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("questions.jsonl"), QUESTIONS).unwrap();
    // As many as a path needs.
    let held_out = QUESTIONS.repeat(PATH_ROWS.div_ceil(QUESTIONS.lines().count()));
    std::fs::write(path.join("held-out.jsonl"), &held_out).unwrap();
    let run = "-m tiny.gguf --data questions.jsonl --valid held-out.jsonl --steps 60 --lr 0.1";
    assert!(train(path, &format!("{run} -o alone.gguf"))
        .status
        .success());
    let tested = train(path, &format!("{run} -o edit.gguf --test held-out.jsonl"));
    let text = stderr(&tested);
    assert!(tested.status.success(), "{text}");
    assert!(
        text.contains("in held-out.jsonl are also trained on or validated with"),
        "{text}"
    );
    // They are looked at when all is done.
    let [alone, edit] =
        ["alone.gguf", "edit.gguf"].map(|name| Sidecar::read(path.join(name)).unwrap().layers);
    assert_eq!(alone, edit);

    let read = |name: &str| std::fs::read_to_string(path.join("edit.run").join(name)).unwrap();
    let (table, validations) = (read("test.md"), read("path/path.md"));
    assert!(text.contains(&table), "{text}");
    // The test rows are those of the validation here, so both measure the same.
    let column = |table: &str, name: &str| -> Vec<String> {
        let cells = |line: &str| -> Vec<String> {
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let mut lines = table.lines();
        let head = cells(lines.next().unwrap());
        let index = head.iter().position(|cell| cell == name).unwrap();
        lines
            .skip(1)
            .map(|line| cells(line)[index].clone())
            .collect()
    };
    for (measured, validated) in [("loss", "validation loss"), ("exact", "exact")] {
        let measured = column(&table, measured);
        assert_eq!(measured[1..], column(&validations, validated), "{table}");
    }
    let rows = read("test.jsonl");
    let rows = rows
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), held_out.lines().count());
    let right = rows.iter().filter(|row| row["exact"][1] == true).count();
    let share = format!("{:.1} %", right as f64 / rows.len() as f64 * 100.0);
    assert_eq!(column(&table, "exact")[1], share);

    // What the next run does not measure is not left from this one.
    assert!(train(path, &format!("{run} -o edit.gguf")).status.success());
    assert!(!path.join("edit.run/test.md").exists());
}

#[test]
fn the_result_notes_how_it_was_trained() {
    let folder = folder();
    let args = "-m tiny.gguf --data rows.jsonl --steps 2 -o edit.gguf";
    let output = train(folder.path(), args);
    assert!(output.status.success(), "{}", stderr(&output));
    let training = Sidecar::read(folder.path().join("edit.gguf"))
        .unwrap()
        .training();
    let base = BaseWeights::read(folder.path().join("tiny.gguf")).unwrap();
    assert!(base.norms_sha256.is_some());
    let expected = Training {
        format: Some(RowFormat::Plain),
        base,
        ..Training::default()
    };
    assert_eq!(training, expected);
}

#[test]
fn rows_that_are_too_long_are_named() {
    let folder = folder();
    let args =
        "-m tiny.gguf --data rows.jsonl --steps 2 --max-length 6 --valid-share 0 -o edit.gguf";
    let output = train(folder.path(), args);
    let text = stderr(&output);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(
        text.contains("left out 1 rows of more than 6 tokens, lines 3"),
        "{text}"
    );
}

#[test]
fn bad_input_is_exit_code_1() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("empty.jsonl"), "").unwrap();
    std::fs::write(path.join("half.jsonl"), "{\"prompt\": \"t4\"}\n").unwrap();
    std::fs::write(path.join("no.gguf"), "GGUF").unwrap();
    let model = std::fs::read(path.join("tiny.gguf")).unwrap();
    std::fs::write(path.join("short.gguf"), &model[..model.len() / 2]).unwrap();
    let cases = [
        ("-m none.gguf --data rows.jsonl", "none.gguf"),
        ("-m no.gguf --data rows.jsonl", "no.gguf"),
        ("-m short.gguf --data rows.jsonl", "short.gguf"),
        ("-m tiny.gguf --data none.jsonl", "none.jsonl"),
        (
            "-m tiny.gguf --data empty.jsonl",
            "empty.jsonl holds no rows",
        ),
        (
            "-m tiny.gguf --data half.jsonl",
            "half.jsonl, line 1: no completion",
        ),
        (
            "-m tiny.gguf --data rows.jsonl --valid empty.jsonl",
            "empty.jsonl holds no rows",
        ),
        (
            "-m tiny.gguf --data rows.jsonl --max-length 2",
            "no row has at most 2 tokens",
        ),
        (
            "-m tiny.gguf --data rows.jsonl --device cuda:77",
            "cuda:77 is not there",
        ),
        ("-m tiny.gguf --data rows.jsonl --chat", "chat template"),
        (
            "-m tiny.gguf --data rows.jsonl --lr 1e39 --steps 9",
            "the loss is",
        ),
    ];
    for (args, message) in cases {
        let (code, text) = failure(path, args);
        assert_eq!(code, 1, "{args}: {text}");
        assert!(
            text.starts_with("error: ") || text.contains("\nerror: "),
            "{args}: {text}"
        );
        assert!(text.contains(message), "{args}: {text}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_the_training() {
    let folder = folder();
    for output in ["none/edit.gguf", "."] {
        let args = format!("-m tiny.gguf --data rows.jsonl -o {output}");
        let output = train(folder.path(), &args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("cannot write") && !text.contains("step"),
            "{text}"
        );
    }
}

#[test]
fn an_input_is_never_the_output() {
    let folder = folder();
    let path = folder.path();
    std::fs::hard_link(path.join("tiny.gguf"), path.join("same.gguf")).unwrap();
    std::fs::write(path.join("valid.jsonl"), ROWS).unwrap();
    let inputs = ["tiny.gguf", "same.gguf", "rows.jsonl", "valid.jsonl"];
    let before = inputs.map(|name| std::fs::read(path.join(name)).unwrap());
    for output in inputs {
        let args = format!("-m tiny.gguf --data rows.jsonl --valid valid.jsonl -o {output}");
        for args in [args.clone(), format!("{args} --dry-run")] {
            let text = stderr(&train(path, &args));
            assert!(text.contains(&format!("error: {output}: ")), "{text}");
            assert!(text.contains("is an input of this command"), "{text}");
        }
    }
    let args = "logits -m tiny.gguf --tokens 1 -o same.gguf";
    let text = stderr(&train(path, args));
    assert!(
        text.contains("is an input of this command (tiny.gguf)"),
        "{text}"
    );
    assert_eq!(
        inputs.map(|name| std::fs::read(path.join(name)).unwrap()),
        before
    );
}

#[test]
fn a_run_directory_takes_no_files_of_others() {
    let folder = folder();
    let path = folder.path();
    let notes = path.join("notes");
    std::fs::create_dir(&notes).unwrap();
    std::fs::write(notes.join("config.json"), "{\"mine\": true}").unwrap();
    let run = "-m tiny.gguf --data rows.jsonl --steps 1";
    for (args, message) in [
        ("-o edit.gguf --run-dir notes", "notes is no run directory"),
        ("-o edit.gguf --run-dir . ", ". is no run directory"),
        ("-o edit.gguf --run-dir rows.jsonl", "rows.jsonl is a file"),
        ("-o edit.run", "is the output and the run directory"),
        ("-o /dev/null", "/dev/null is no file"),
    ] {
        let output = train(path, &format!("{run} {args}"));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(message), "{text}");
    }
    assert_eq!(std::fs::read_dir(&notes).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 3);
}

#[test]
fn options_of_a_file_and_of_an_earlier_run() {
    let folder = folder();
    let path = folder.path();
    let file = "model = 'tiny.gguf'\ndata = 'rows.jsonl'\nsteps = 2\nvalid-share = 0\nlr = 0.1\n";
    std::fs::write(path.join("run.toml"), file).unwrap();
    for args in [
        "--config run.toml -o a.gguf",
        "--config a.run/config.json -o b.gguf",
        "--config a.run/config.json -o c.gguf --steps 3",
    ] {
        let output = train(path, args);
        assert!(output.status.success(), "{args}: {}", stderr(&output));
    }
    let read = |name: &str| Sidecar::read(path.join(name)).unwrap();
    let [a, b, c] = ["a.gguf", "b.gguf", "c.gguf"].map(read);
    assert_eq!((&a.layers, &a.train), (&b.layers, &b.train));
    assert_eq!(a.train.get("steps").unwrap().as_u64(), Some(2));
    assert_eq!(c.train.get("steps").unwrap().as_u64(), Some(3));
    let output = train(path, "--config rows.jsonl -o d.gguf");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    // A resumed run may be told in another way what it was told before.
    let output = train(path, "--config run.toml -o a.gguf --resume");
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The base in three files instead of one.
#[test]
fn a_split_base_trains_as_the_whole() {
    let folder = folder();
    let path = folder.path();
    let shards = testkit::split(&path.join("tiny.gguf"), path, "s", 3);
    let run = "--data rows.jsonl --steps 8 --batch-size 2 --lr 0.1";
    let said = |args: &str| {
        let output = train(path, args);
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    let bases = ["tiny.gguf", "s-00001-of-00003.gguf"];
    let reports = bases.map(|base| said(&format!("-m {base} {run} -o edit.gguf --dry-run")));
    assert_eq!(reports[0], reports[1]);
    let results = bases.map(|base| {
        said(&format!("-m {base} {run} -o edit.gguf"));
        said(&format!(
            "logits -m {base} --jola edit.gguf --tokens 1,5,6 -o out.bin"
        ));
        let sidecar = Sidecar::read(path.join("edit.gguf")).unwrap();
        (sidecar, std::fs::read(path.join("out.bin")).unwrap())
    });
    let [(whole, logits), (split, of_split)] = results;
    assert_eq!(whole.layers, split.layers);
    assert_eq!(logits, of_split);
    let bytes: Vec<u8> = shards
        .iter()
        .flat_map(|shard| std::fs::read(shard).unwrap())
        .collect();
    let recorded = split
        .train
        .get("base_bytes")
        .and_then(|bytes| bytes.as_u64());
    assert_eq!(recorded, Some(bytes.len() as u64));
    std::fs::write(path.join("all"), bytes).unwrap();
    let digest = jola_edit::sidecar::sha256(path.join("all")).unwrap();
    assert_eq!(split.base_sha256, Some(digest));

    let refused = |args: &str, messages: [&str; 2]| {
        let (code, text) = failure(path, &format!("{args} {run}"));
        assert_eq!(code, 1, "{text}");
        assert!(messages.iter().all(|part| text.contains(part)), "{text}");
    };
    std::fs::remove_file(path.join("edit.gguf")).unwrap();
    refused(
        "-m s-00002-of-00003.gguf",
        [
            "it is file 2 of 3",
            "name the first one, s-00001-of-00003.gguf",
        ],
    );
    std::fs::remove_file(&shards[2]).unwrap();
    refused(
        "-m s-00001-of-00003.gguf",
        [
            "s-00003-of-00003.gguf: cannot open it",
            "one of the 3 files",
        ],
    );
}

#[test]
fn wrong_options_are_exit_code_2() {
    let folder = folder();
    for args in [
        "-m tiny.gguf",
        "-m tiny.gguf --data rows.jsonl --sparsity 1",
        "-m tiny.gguf --data rows.jsonl --sparsity 0.9,1",
        "-m tiny.gguf --data rows.jsonl --sparsity 0.9,0.8,0.7",
        "-m tiny.gguf --data rows.jsonl --sparsity ,0.9",
        "-m tiny.gguf --data rows.jsonl --sparsity 0.5 --lambda 1",
        "-m tiny.gguf --data rows.jsonl --lr 0",
        "-m tiny.gguf --data rows.jsonl --lr nan",
        "-m tiny.gguf --data rows.jsonl --epochs 0",
        "-m tiny.gguf --data rows.jsonl --device gpu",
        "-m tiny.gguf --data rows.jsonl --method best",
    ] {
        let (code, text) = failure(folder.path(), args);
        assert_eq!(code, 2, "{args}: {text}");
    }
}

#[test]
fn logits_refuse_what_does_not_fit() {
    let folder = folder();
    std::fs::write(folder.path().join("no.gguf"), "GGUF").unwrap();
    for (args, message) in [
        ("--tokens 96", "token 96 is outside the vocabulary of 96"),
        ("--tokens 1 --jola no.gguf", "no.gguf"),
        ("--tokens 1 --jola tiny.gguf", "tiny.gguf"),
    ] {
        let output = train(
            folder.path(),
            &format!("logits -m tiny.gguf {args} -o out.bin"),
        );
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains(message) && !folder.path().join("out.bin").exists(),
            "{text}"
        );
    }
}

#[test]
fn without_libtorch_the_launcher_says_what_to_do() {
    let launcher = env!("CARGO_BIN_EXE_jola-train");
    let output = testkit::command(launcher)
        .env("LIBTORCH", "/nowhere")
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        "/nowhere/lib has no libtorch_cpu",
        "make build",
        "libtorch 2.13",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_launcher_starts_the_trainer() {
    let output = testkit::command(env!("CARGO_BIN_EXE_jola-train"))
        .arg("--version")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        output.stdout,
        format!("jola-train {}\n", env!("CARGO_PKG_VERSION")).as_bytes()
    );
}
