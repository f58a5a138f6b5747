//! An edit trained on a directory serves the GGUF of the same model.

use clap::Parser;
use jola_edit::gguf::Gguf;
use jola_edit::{BaseShape, Sidecar};
use jola_trainer::base;
use jola_trainer::cli::Cli;
use serde_json::json;

use super::fixture::{write_gguf, Golden};

#[test]
fn the_sidecar_fits_the_gguf() {
    for case in ["llama3", "gemma3"] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        Golden::read(case).write(folder.path());
        let settings = json!({
            "eos_token": "~",
            "chat_template": "{% for m in messages %}{{ m.role[0] + m.content }}{% endfor %}",
        });
        std::fs::write(path("tokenizer_config.json"), settings.to_string()).unwrap();
        let plain = json!({ "prompt": "ab ", "completion": "cd" });
        let chat = json!({ "messages": [
            { "role": "user", "content": "x" },
            { "role": "assistant", "content": "y" },
        ]});
        std::fs::write(path("data.jsonl"), format!("{plain}\n{chat}\n")).unwrap();
        let (model, data, out) = (path(""), path("data.jsonl"), path("edit.gguf"));
        let run = |arguments: &[&str]| {
            let all = ["jola-train"].iter().chain(arguments);
            Cli::parse_from(all).run().unwrap();
        };
        let data = [
            "--data",
            &data,
            "--valid-share",
            "0",
            "--steps",
            "3",
            "--dtype",
            "f32",
        ];
        run(&[
            &["-m", &model, "-o", &out, "--method", "ungated"][..],
            &data,
        ]
        .concat());

        let twin = write_gguf(
            &*base::open(folder.path()).unwrap(),
            path("twin.gguf").into(),
        );
        let sidecar = Sidecar::read(&out).unwrap();
        sidecar
            .check_base(&BaseShape::from_gguf(&Gguf::open(&twin).unwrap()).unwrap())
            .unwrap();
        assert_eq!(sidecar.base_sha256, None);
        assert!(!sidecar.layers.is_empty());

        let mut logits = Vec::new();
        for (base, name) in [(model.as_str(), "a"), (twin.to_str().unwrap(), "b")] {
            let file = path(name);
            run(&[
                "logits", "-m", base, "--jola", &out, "--tokens", "1,5,9,33", "-o", &file,
            ]);
            logits.push(std::fs::read(file).unwrap());
        }
        assert_eq!(logits[0].len(), 4 * 96 * 4);
        assert_eq!(logits[0], logits[1], "{case}");
    }
}
