//! Chat templates rendered here and by transformers.

use std::path::{Path, PathBuf};

use llama_jola::chat::ChatTemplate;
use llama_jola::data::parse_messages;
use serde_json::Value;

/// Templates that must be rendered as transformers renders them.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/huggingface/golden/templates")
}

/// The golden text with times in place of their formats.
fn with_times(text: &str) -> String {
    let mut pieces = text.split('\u{1}');
    let mut result = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (format, rest) = piece.split_once('\u{2}').unwrap();
        let source = format!("{{{{ strftime_now('{format}') }}}}");
        let template = ChatTemplate::new(&source, String::new(), String::new()).unwrap();
        result += &template.render(&[], false).unwrap();
        result += rest;
    }
    result
}

#[test]
fn templates_render_as_in_transformers() {
    renders_as_in_transformers(&golden());
}

/// Those of a folder that make_templates.py made of other templates.
#[test]
#[ignore = "needs JOLA_TEMPLATES, a folder that make_templates.py made"]
fn other_templates_render_as_in_transformers() {
    let folder = std::env::var_os("JOLA_TEMPLATES").expect("JOLA_TEMPLATES");
    renders_as_in_transformers(Path::new(&folder));
}

fn renders_as_in_transformers(folder: &Path) {
    let golden = std::fs::read(folder.join("rendered.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let mut differing = Vec::new();
    let mut compared = 0;
    for (name, rendered) in golden["rendered"].as_object().unwrap() {
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, "<BOS>".into(), "<EOS>".into());
        for (case, expected) in cases.iter().zip(rendered.as_array().unwrap()) {
            let messages = parse_messages(&case["messages"].to_string()).unwrap();
            let open = case["add_generation_prompt"].as_bool().unwrap();
            let found = match &template {
                Ok(template) => template
                    .render(&messages, open)
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let expected = expected["text"].as_str().map(with_times);
            compared += 1;
            match (found, expected) {
                (Ok(found), Some(expected)) if found == expected => {}
                (Err(_), None) => {}
                (found, expected) => {
                    differing.push(format!(
                        "{name}:\n  found {found:?}\n  expected {expected:?}"
                    ));
                }
            }
        }
    }
    println!("{compared} conversations, {} differ", differing.len());
    assert!(compared > 0, "{}: no templates", folder.display());
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
