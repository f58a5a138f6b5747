//! The page itself: front matter in YAML, then Markdown.

use std::fmt::Write as _;

use jola_edit::sidecar::SidecarStats;
use serde_json::json;

use super::facts::Facts;
use super::MARK;

const PROJECT: &str = "llama-jola";
const PAPER: &str = "https://arxiv.org/abs/2502.01179";

/// The page; `picture` is the name of the file beside it.
pub fn write(facts: &Facts, stats: &SidecarStats, picture: Option<&str>) -> String {
    let mut page = front_matter(facts);
    let mut add = |part: String| {
        page.push('\n');
        page.push_str(&part);
    };
    add(format!("# {}\n", facts.title));
    add(summary(facts, stats));
    if let Some(picture) = picture {
        add(format!(
            "![The norms of the edit's scales and offsets, layer by head](<{picture}>)\n"
        ));
    }
    if !facts.scores.is_empty() {
        add(scores(facts));
    }
    add(usage(facts));
    add(training(facts));
    page
}

/// YAML takes JSON's strings as its own.
fn front_matter(facts: &Facts) -> String {
    let mut yaml = format!("---\nbase_model: {}\n{MARK}\n", json!(facts.base_model));
    if let Some(license) = &facts.license {
        let _ = writeln!(yaml, "license: {}", json!(license));
    }
    yaml.push_str("tags:\n- llama-cpp\n- gguf\n- jola\n");
    for (key, value) in [
        ("jola_data_sha256", &facts.data_sha256),
        ("jola_base_sha256", &facts.base_sha256),
    ] {
        if let Some(value) = value {
            let _ = writeln!(yaml, "{key}: {}", json!(value));
        }
    }
    yaml + "---\n"
}

fn summary(facts: &Facts, stats: &SidecarStats) -> String {
    let Facts {
        file,
        bytes,
        base_model,
        ..
    } = facts;
    format!(
        "An edit of {base_model} for llama.cpp: `{file}`, {bytes} bytes, scales and shifts the \
         outputs of {} of {} attention heads ({} scales, {} offsets) and leaves the model's own \
         file as it is. It was made by {PROJECT} in the manner of [JoLA]({PAPER}).\n",
        stats.edited_heads, stats.heads, stats.open_mul, stats.open_add
    )
}

fn scores(facts: &Facts) -> String {
    let mut table =
        String::from("## Scores\n\n| rows | without the edit | with it |\n|---|---|---|\n");
    for score in &facts.scores {
        let unedited = score.unedited.as_deref().unwrap_or("");
        let _ = writeln!(table, "| {} | {unedited} | {} |", score.what, score.edited);
    }
    table
}

fn usage(facts: &Facts) -> String {
    let file = &facts.file;
    let (path, body) = match facts.chat {
        true => (
            "v1/chat/completions",
            r#"{"messages": [{"role": "user", "content": "…"}]}"#,
        ),
        false => ("completion", r#"{"prompt": "…", "n_predict": 32}"#),
    };
    let call = match facts.chat {
        true => r#"llm.create_chat_completion([{"role": "user", "content": "…"}])"#,
        false => r#"llm.create_completion("…", max_tokens=32)"#,
    };
    format!(
        "## Use\n\nWith `base.gguf` a GGUF of {base}, in the llama-server that you have:\n\n\
         ```sh\nllama-jola with {file} -- llama-server -m base.gguf --port 8080\n\
         curl localhost:8080/{path} -d '{body}'\n```\n\n\
         In Python, with llama-cpp-python, as `llama-jola with {file} -- python ask.py`:\n\n\
         ```python\nfrom llama_cpp import Llama\n\nllm = Llama(model_path=\"base.gguf\")\n\
         print({call})\n```\n\n\
         As a plain GGUF, for programs that take no edits:\n\n\
         ```sh\nllama-jola bake -m base.gguf --jola {file} -o baked.gguf\n```\n",
        base = facts.base_model
    )
}

fn training(facts: &Facts) -> String {
    let mut text = String::from("## Training\n\n| | |\n|---|---|\n");
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "| {name} | {value} |");
    };
    row("method", &facts.method);
    row("architecture", &facts.architecture);
    for (name, value) in &facts.settings {
        row(name, value);
    }
    let digests = [
        ("data, sha256", &facts.data_sha256),
        ("base file, sha256", &facts.base_sha256),
        ("edit, sha256", &Some(facts.sha256.clone())),
    ];
    for (name, digest) in digests {
        if let Some(digest) = digest {
            row(name, &format!("`{digest}`"));
        }
    }
    if !facts.command.is_empty() {
        let words = facts.command.join(" ");
        let _ = write!(text, "\nThe run was\n\n```sh\njola-train {words}\n```\n");
    }
    text
}
