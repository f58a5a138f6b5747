//! Files and folders in each other's places: the message says what was found and where it
//! belongs.

use std::path::Path;

use testkit::{base_model, llama_jola, llama_jola_on, repository, sidecars, text, Cli, Folder};

use crate::programs::{jola_train_logits, train};

/// `llama-jola run` and `jola-train logits` with a file behind `option`.
fn with_option(option: &str, file: &Path, out: &Path) -> [Cli; 2] {
    [
        llama_jola_on("run", &base_model()).args(["-p", "Hello", "-n", "1", option, text(file)]),
        jola_train_logits(&base_model()).args([
            "--tokens",
            "1",
            "-o",
            text(out),
            option,
            text(file),
        ]),
    ]
}

#[test]
fn files_in_each_others_places() {
    let folder = Folder::new();
    let out = folder.path("out");
    let (base, edit) = (base_model(), sidecars::golden());
    let data = repository("examples/routing/test.jsonl");
    for (option, file, text) in [
        (
            "--jola",
            base.as_path(),
            "it is a base model, not a sidecar",
        ),
        ("--lora", &base, "it is a base model, not a LoRA adapter"),
        ("--lora", &edit, "it is a sidecar with an edit, not a LoRA"),
        ("--jola", &data, "it is JSON: rows go behind --data"),
        ("--jola", folder.root(), "it is a folder; name a file in it"),
    ] {
        for cli in with_option(option, file, &out) {
            cli.fail(1, &[testkit::text(file), text]);
        }
    }
    for (model, said) in [
        (edit.as_path(), "it is a sidecar with an edit, not a base"),
        (&data, "it is JSON: rows go behind --data"),
    ] {
        llama_jola_on("run", model)
            .args(["-p", "Hello"])
            .fail(1, &[said]);
        train(model, &data, &out).fail(1, &[said]);
        llama_jola("inspect")
            .args([text(&edit), "-m", text(model)])
            .fail(1, &[said]);
    }
    for file in [&base, &edit] {
        train(&base, file, &out).fail(1, &["a GGUF file; data is JSON Lines"]);
        llama_jola_on("eval", &base)
            .args(["--data", text(file)])
            .fail(1, &["a GGUF file; data is JSON Lines"]);
    }
    train(&base, folder.root(), &out).fail(1, &["is a folder; name a file in it"]);
    assert_eq!(folder.names(), Vec::<String>::new());
}

/// Only the trainer reads models as Hugging Face keeps them.
#[test]
fn a_hugging_face_folder_as_a_served_model() {
    let folder = Folder::new();
    folder.file("config.json", "{}");
    for command in ["run", "bench"] {
        llama_jola_on(command, folder.root())
            .args(["-p", "8"])
            .fail(
                1,
                &["a folder in Hugging Face's layout", "convert_hf_to_gguf.py"],
            );
    }
}

/// llama.cpp's spelling of a strength, behind the option that takes none.
#[test]
fn a_strength_behind_the_wrong_option() {
    let spec = format!("{}:0.5", text(&sidecars::golden()));
    for (option, right) in [("--jola", "--jola-scaled"), ("--lora", "--lora-scaled")] {
        llama_jola_on("run", &base_model())
            .args(["-p", "Hello", option, &spec])
            .fail(1, &["there is no file", &format!("{right} {spec}")]);
    }
    llama_jola_on("run", &base_model())
        .args(["-p", "Hello", "-n", "1", "--jola-scaled", &spec])
        .succeed();
    llama_jola("inspect")
        .args([&spec])
        .fail(1, &["name the file without its strength"]);
}
