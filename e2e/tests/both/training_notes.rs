//! What an edit notes of its training, and the warnings of whoever uses it otherwise.

use std::path::{Path, PathBuf};

use jola_edit::gguf::{Gguf, GgufWriter, Metadata, TensorData, Value};
use jola_edit::sidecar::{text_sha256, RowFormat};
use jola_edit::Sidecar;

use crate::programs::train;
use testkit::{base_model, llama_jola, llama_jola_on, text, Cli, Folder};

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}
"#;
const PLAIN: &str = r#"{"prompt": "a", "completion": " b"}
{"prompt": "c", "completion": " d"}
"#;

/// A copy of the base with other metadata or weights.
fn copy(
    folder: &Folder,
    name: &str,
    key: (&str, Value),
    change: impl Fn(&str, &mut Vec<u8>),
) -> PathBuf {
    let base = Gguf::open(base_model()).unwrap();
    let mut metadata = Metadata::new();
    for (other, value) in base.metadata().iter() {
        let value = if other == key.0 { &key.1 } else { value };
        metadata.insert(other, value.clone()).unwrap();
    }
    let mut writer = GgufWriter::new(metadata).unwrap();
    for tensor in base.iter() {
        let mut bytes = tensor.bytes.to_vec();
        change(&tensor.info.name, &mut bytes);
        let dims = &tensor.info.dims;
        let data = TensorData::from(bytes);
        writer
            .add_tensor(tensor.info.name.clone(), tensor.info.ty, dims, data)
            .unwrap();
    }
    let path = folder.path(name);
    writer.write(&path).unwrap();
    path
}

/// One token of a plain prompt, or of a chat.
fn run(model: &Path, edit: &Path, chat: bool) -> Cli {
    let chat = if chat { &["--chat"][..] } else { &[] };
    llama_jola_on("run", model)
        .args(["-n", "1", "-p", "a", "--jola", text(edit)])
        .args(chat)
}

fn warnings(cli: Cli) -> Vec<String> {
    let stderr = cli.succeed().stderr;
    let lines = stderr.lines().filter(|line| line.starts_with("warning: "));
    lines.map(str::to_owned).collect()
}

#[track_caller]
fn assert_warns(cli: Cli, expected: &[&str]) {
    let found = warnings(cli);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}");
    }
}

const PLAIN_PROMPT: &str = "trained on conversations, and used on plain text";
const CHAT_PROMPT: &str = "trained on plain text, and used with the chat template";
const OTHER_TEMPLATE: &str = "another chat template";
const OTHER_WEIGHTS: &str = "another model of the same shape";

#[test]
fn an_edit_that_is_used_otherwise_than_it_was_trained_warns() {
    let folder = Folder::new();
    let base = base_model();
    let (chat, plain) = (folder.path("chat.gguf"), folder.path("plain.gguf"));
    let (chats, texts) = (
        folder.file("chat.jsonl", CHAT),
        folder.file("plain.jsonl", PLAIN),
    );
    train(&base, &chats, &chat).succeed();
    train(&base, &texts, &plain).succeed();

    let template = Gguf::open(&base).unwrap();
    let template = template.metadata().str("tokenizer.chat_template").unwrap();
    let training = Sidecar::read(&chat).unwrap().training();
    assert_eq!(training.format, Some(RowFormat::Chat));
    assert_eq!(training.template_sha256, Some(text_sha256(template)));
    assert_eq!(training.turns.as_deref(), Some("all"));
    let shown = llama_jola("inspect").args([&chat]).succeed().stdout;
    for key in [
        "format",
        "template_sha256",
        "base_sample_sha256",
        "base_norms_sha256",
    ] {
        assert!(shown.contains(key), "{shown}");
    }

    assert_warns(run(&base, &chat, true), &[]);
    assert_warns(run(&base, &plain, false), &[]);
    assert_warns(run(&base, &chat, false), &[PLAIN_PROMPT]);
    assert_warns(run(&base, &plain, true), &[CHAT_PROMPT]);
    let eval = |edit: &Path, data: &Path| {
        llama_jola_on("eval", &base)
            .args(["--metric", "perplexity", "--jola", text(edit)])
            .args(["--data", text(data)])
    };
    assert_warns(eval(&chat, &chats), &[]);
    assert_warns(eval(&chat, &texts), &[PLAIN_PROMPT]);
    assert_warns(eval(&plain, &chats), &[CHAT_PROMPT]);

    // Other weights; the same weights with another template.
    let key = ("general.name", Value::from("a fine-tune"));
    let tuned = copy(&folder, "tuned.gguf", key, |name, bytes| {
        if name == "blk.3.ffn_norm.weight" {
            bytes[0] ^= 1;
        }
    });
    assert_warns(run(&tuned, &plain, false), &[OTHER_WEIGHTS]);
    let key = (
        "tokenizer.chat_template",
        Value::from("{{ messages[0].content }}"),
    );
    let renamed = copy(&folder, "template.gguf", key, |_, _| ());
    assert_warns(run(&renamed, &chat, true), &[OTHER_TEMPLATE]);
    assert_warns(run(&renamed, &plain, false), &[]);
    let baked = folder.path("baked.gguf");
    let bake = llama_jola_on("bake", &renamed)
        .args(["--jola", text(&chat), "-o", text(&baked)])
        .args(["--outtype", "keep", "--max-kl", "10"]);
    assert_warns(bake, &[OTHER_TEMPLATE]);

    // As before: an edit that notes nothing.
    assert_warns(run(&base, &testkit::sidecars::golden(), true), &[]);
}
