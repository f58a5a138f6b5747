//! Input that cannot be used, to all commands of both programs: one message that names it,
//! exit status 1, nothing written.

use std::path::{Path, PathBuf};

use jola_edit::gguf::{Gguf, GgufWriter, Metadata};

use testkit::{base_model, llama_jola, llama_jola_on, repository, sidecars, text, Cli, Folder};

use crate::programs::{jola_train_logits, train};

/// Every command that loads a model, on `model`; outputs go to `folder`.
fn model_commands(model: &Path, folder: &Folder) -> Vec<Cli> {
    let data = repository("examples/routing/test.jsonl");
    let out = folder.path("out");
    let edit = sidecars::golden();
    vec![
        llama_jola_on("run", model).args(["-p", "Hello", "-n", "2"]),
        llama_jola_on("eval", model).args(["--data", text(&data), "--predictions", text(&out)]),
        llama_jola_on("logits", model).args(["--tokens", "1", "-o", text(&out)]),
        llama_jola_on("bench", model).args(["--jola", text(&edit)]),
        llama_jola_on("bake", model).args(["--jola", text(&edit), "-o", text(&out)]),
        jola_train_logits(model).args(["--tokens", "1", "-o", text(&out)]),
        train(model, &data, &out),
    ]
}

fn model_is_refused(folder: &Folder, model: &Path, texts: &[&str]) {
    let before = folder.names();
    for cli in model_commands(model, folder) {
        cli.fail(1, texts);
        assert_eq!(folder.names(), before, "a file was left behind");
    }
}

#[test]
fn missing_model() {
    let folder = Folder::new();
    let path = folder.path("none.gguf");
    model_is_refused(&folder, &path, &["none.gguf", "No such file"]);
}

/// In the metadata, and in the data of a tensor.
#[test]
fn truncated_model() {
    let folder = Folder::new();
    let whole = std::fs::read(base_model()).unwrap();
    for (name, len) in [
        ("head.gguf", 100_000),
        ("body.gguf", whole.len() - 1_000_000),
    ] {
        let path = folder.file(name, &whole[..len]);
        model_is_refused(&folder, &path, &[name, "truncated"]);
    }
}

#[test]
fn no_gguf_as_model() {
    let folder = Folder::new();
    let path = repository("README.md");
    model_is_refused(&folder, &path, &["README.md", "not a GGUF file"]);
}

#[test]
fn a_sidecar_as_model() {
    let folder = Folder::new();
    let path = sidecars::golden();
    model_is_refused(
        &folder,
        &path,
        &["edit.gguf", "it is a sidecar with an edit", "--jola"],
    );
}

/// The base model's metadata with `change` applied, without tensors.
fn hollow_model(folder: &Folder, change: impl Fn(&str) -> Option<&'static str>) -> PathBuf {
    let base = Gguf::open(base_model()).unwrap();
    let mut metadata = Metadata::new();
    for (key, value) in base.metadata().iter() {
        match change(key) {
            Some(text) => metadata.insert(key, text).unwrap(),
            None => metadata.insert(key, value.clone()).unwrap(),
        }
    }
    let path = folder.path("hollow.gguf");
    GgufWriter::new(metadata).unwrap().write(&path).unwrap();
    path
}

#[test]
fn a_model_without_tensors() {
    let folder = Folder::new();
    let path = hollow_model(&folder, |_| None);
    model_is_refused(&folder, &path, &["hollow.gguf", "token_embd.weight"]);
}

#[test]
fn tokens_out_of_range() {
    let folder = Folder::new();
    let out = folder.path("out");
    jola_train_logits(&base_model())
        .args(["--tokens=1,49152", "-o", text(&out)])
        .fail(1, &["token 49152", "vocabulary of 49152"]);
    assert!(!out.exists());
}

/// A folder that is not there, and a folder where the file should be.
#[test]
fn unwritable_output() {
    let folder = Folder::new();
    let base = base_model();
    let data = repository("examples/routing/test.jsonl");
    let nowhere = folder.path("no/such/folder/out");
    let is_folder = folder.path("is_folder");
    std::fs::create_dir(&is_folder).unwrap();
    let edit = sidecars::golden();
    for out in [&nowhere, &is_folder] {
        let before = folder.names();
        let out = text(out);
        let clis = [
            llama_jola_on("logits", &base).args(["--tokens", "1", "-o", out]),
            llama_jola_on("eval", &base).args([
                "--limit",
                "1",
                "-n",
                "1",
                "--data",
                text(&data),
                "--predictions",
                out,
            ]),
            llama_jola("inspect").args([text(&edit), "--plot", out]),
            llama_jola_on("bake", &base).args(["--jola", text(&edit), "-o", out]),
            jola_train_logits(&base).args(["--tokens", "1", "-o", out]),
            train(&base, &data, Path::new(out)),
        ];
        for cli in clis {
            cli.fail(1, &[out]);
            assert_eq!(folder.names(), before);
        }
    }
}

/// A disk that fills up while the output is written, played by a limit on file sizes.
#[test]
fn no_half_written_output() {
    let folder = Folder::new();
    let base = base_model();
    let out = folder.path("out");
    // 2 x 49152 floats need 384 KiB; the limit is 64 blocks of 512 or 1024 bytes.
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    for cli in [llama_jola_on("logits", &base), jola_train_logits(&base)] {
        let command = cli
            .args(["--tokens", "1,2", "-o", text(&out)])
            .into_command();
        Cli::new(Path::new("/bin/sh"))
            .args(["-c", limited])
            .args([command.get_program()])
            .args(command.get_args())
            .fail(1, &[text(&out), "File too large"]);
        assert_eq!(folder.names(), Vec::<String>::new());
    }
}

/// Data files that cannot be evaluated on or trained with: the same reader, the same texts.
#[test]
fn data_files() {
    let folder = Folder::new();
    let good = r#"{"prompt": "a", "completion": "b"}"#;
    let file = |name: &str, text: &str| folder.file(name, text);
    let cases: [(PathBuf, &[&str]); 8] = [
        (folder.path("none.jsonl"), &["none.jsonl", "No such file"]),
        (file("empty.jsonl", ""), &["empty.jsonl holds no rows"]),
        (
            file("blank.jsonl", "\n  \n"),
            &["blank.jsonl holds no rows"],
        ),
        (
            file("broken.jsonl", &format!("{good}\n\n{{\"prompt\": \"a\",\n")),
            &["broken.jsonl, line 3", "not valid JSON"],
        ),
        (
            file(
                "no_completion.jsonl",
                &format!("{good}\n{{\"prompt\": \"a\"}}\n"),
            ),
            &[
                "no_completion.jsonl, line 2",
                "no completion",
                "`completion`",
            ],
        ),
        (
            file(
                "empty_completion.jsonl",
                r#"{"prompt": "a", "completion": ""}"#,
            ),
            &["empty_completion.jsonl, line 1", "`completion` is empty"],
        ),
        (
            file(
                "no_answer.jsonl",
                r#"{"messages": [{"role": "user", "content": "Hi"}]}"#,
            ),
            &["no_answer.jsonl, line 1", "assistant"],
        ),
        (
            file("other.jsonl", r#"{"text": "once upon a time"}"#),
            &["other.jsonl, line 1", "unknown form", "text"],
        ),
    ];
    let out = folder.path("out");
    for (data, texts) in &cases {
        llama_jola_on("eval", &base_model())
            .args(["--data", text(data), "--predictions", text(&out)])
            .fail(1, texts);
        train(&base_model(), data, &out).fail(1, texts);
        assert!(!out.exists());
    }
}
