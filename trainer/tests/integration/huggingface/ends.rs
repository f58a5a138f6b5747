//! Which of a directory's files decides on its chat template and on the tokens that begin and
//! end a text: as in llama.cpp's converter (`SpecialVocab` in its `gguf-py`), since the GGUF
//! that it makes is what is served.

use jola_trainer::base::HfVocabulary;
use llama_jola::chat::Message;
use llama_jola::{SpecialTokens, Vocabulary};
use serde_json::{json, Value as Json};
use tempfile::TempDir;

/// Special tokens of the vocabulary; its text is `a` to `z`.
const SPECIAL: [&str; 4] = ["<s>", "</s>", "<bos>", "<eos>"];

fn tokenizer(post_processor: Json) -> Json {
    let letters = ('a'..='z').map(String::from);
    let all = SPECIAL.map(String::from).into_iter().chain(letters);
    let vocabulary: serde_json::Map<String, Json> = all
        .enumerate()
        .map(|(id, text)| (text, json!(id)))
        .collect();
    let added: Vec<Json> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": null,
        "post_processor": post_processor, "decoder": null,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    })
}

/// A post-processor that puts these tokens around a text.
fn around(tokens: [Option<&str>; 2]) -> Json {
    let special = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let [first, last] = tokens.map(|token| token.map(special));
    let single: Vec<Json> = first.into_iter().chain([text("A")]).chain(last).collect();
    let tokens: serde_json::Map<String, Json> = (0..)
        .zip(SPECIAL)
        .map(|(id, token)| {
            let entry = json!({ "id": token, "ids": [id], "tokens": [token] });
            (token.to_owned(), entry)
        })
        .collect();
    json!({
        "type": "TemplateProcessing", "single": single,
        "pair": [text("A"), text("B")], "special_tokens": tokens,
    })
}

/// A directory with these files.
fn folder(post_processor: Json, files: &[(&str, Json)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    write("config.json", "{}".into());
    write("tokenizer.json", tokenizer(post_processor).to_string());
    for (name, content) in files {
        match content {
            Json::String(text) => write(name, text.clone()),
            json => write(name, json.to_string()),
        }
    }
    folder
}

fn open(folder: &TempDir) -> HfVocabulary {
    HfVocabulary::open(folder.path(), 30).unwrap()
}

/// The tokens of "a", by their texts; `a` for the letter.
fn tokens(folder: &TempDir) -> Vec<&'static str> {
    let tokens = open(folder).tokenize("a", SpecialTokens::PROMPT).unwrap();
    let text = |token: i32| SPECIAL.get(token as usize).copied().unwrap_or("a");
    tokens.into_iter().map(text).collect()
}

const CONFIG: &str = "tokenizer_config.json";

#[test]
fn the_post_processor_decides_what_is_added() {
    let settings = json!({
        "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": false, "add_eos_token": true,
    });
    let added = folder(around([Some("<s>"), None]), &[(CONFIG, settings.clone())]);
    assert_eq!(tokens(&added), ["<s>", "a", "</s>"]);
    // Where it says nothing, tokenizer_config.json does.
    let silent = folder(Json::Null, &[(CONFIG, settings)]);
    assert_eq!(tokens(&silent), ["a", "</s>"]);
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let settings = json!({ "bos_token": "<s>", "add_bos_token": true });
    let none = folder(byte_level.clone(), &[(CONFIG, settings.clone())]);
    assert_eq!(tokens(&none), ["a"]);
    let both = json!({
        "type": "Sequence", "processors": [byte_level, around([Some("<s>"), None])],
    });
    assert_eq!(tokens(&folder(both, &[(CONFIG, settings)])), ["<s>", "a"]);
}

/// llama.cpp adds the token called BOS or none: another one at the beginning is lost.
#[test]
fn another_token_at_the_beginning_is_not_the_one_called_bos() {
    let settings = json!({ "bos_token": "<bos>", "add_bos_token": true });
    let other = folder(around([Some("<s>"), None]), &[(CONFIG, settings)]);
    assert_eq!(tokens(&other), ["a"]);
    let unnamed = folder(around([Some("<s>"), None]), &[(CONFIG, json!({}))]);
    assert_eq!(tokens(&unnamed), ["<s>", "a"]);
}

#[test]
fn another_token_at_the_end_takes_the_place_of_the_one_called_eos() {
    let settings = json!({ "eos_token": { "content": "<eos>" } });
    let other = folder(around([None, Some("</s>")]), &[(CONFIG, settings)]);
    assert_eq!(tokens(&other), ["a", "</s>"]);
    let vocabulary = open(&other);
    assert_eq!(vocabulary.eos(), Some(1));
    assert!(vocabulary.is_eog(1) && vocabulary.is_eog(3) && !vocabulary.is_eog(0));
}

#[test]
fn ids_of_config_json_come_last() {
    let ids = json!({ "bos_token_id": 0, "eos_token_id": 3 });
    let named = json!({ "eos_token": "</s>" });
    let both = folder(Json::Null, &[(CONFIG, named), ("config.json", ids.clone())]);
    assert_eq!(open(&both).eos(), Some(1));
    let alone = folder(Json::Null, &[("config.json", ids)]);
    assert_eq!(open(&alone).eos(), Some(3));
}

#[test]
fn the_chat_template_of_tokenizer_config_comes_first() {
    let rendered = |files: &[(&str, Json)]| {
        let template = open(&folder(Json::Null, files)).chat();
        template.map(|template| {
            let messages = [Message::new("user", "x")];
            template.render(&messages, true).unwrap()
        })
    };
    let (jinja, json_file) = ("chat_template.jinja", "chat_template.json");
    let own = (CONFIG, json!({ "chat_template": "in the settings" }));
    let several = json!({ "chat_template": [
        { "name": "tool_use", "template": "for tools" },
        { "name": "default", "template": "the default" },
    ]});
    let file = (jinja, json!("in jinja"));
    let older = (json_file, json!({ "chat_template": "in json" }));
    let empty = (CONFIG, json!({}));
    for (files, expected) in [
        (&[own, file.clone(), older.clone()][..], "in the settings"),
        (&[(CONFIG, several), file.clone()], "the default"),
        (&[empty.clone(), file, older.clone()], "in jinja"),
        (&[empty.clone(), older], "in json"),
    ] {
        assert_eq!(rendered(files).unwrap(), expected);
    }
    assert!(rendered(&[empty]).is_err());
}

#[test]
fn a_broken_chat_template_names_its_file() {
    let broken = "{% for %}";
    for (name, contents) in [
        (CONFIG, json!({ "chat_template": broken })),
        ("chat_template.jinja", json!(broken)),
    ] {
        let Err(error) = open(&folder(Json::Null, &[(name, contents)])).chat() else {
            panic!("{name}: a template");
        };
        let said = error.to_string();
        assert!(said.contains(&format!("{name}: not valid Jinja")), "{said}");
    }
}
