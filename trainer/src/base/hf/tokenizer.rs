//! tokenizer.json, tokenizer_config.json and the chat template, used as llama.cpp uses what
//! its converter makes of them.

use std::path::{Path, PathBuf};

use llama_jola::chat::ChatTemplate;
use llama_jola::{SpecialTokens, Token, Vocabulary};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::json::Object;
use crate::error::{HfError, HfErrorKind};

/// The tokenizer of a directory.
pub struct HfVocabulary {
    /// Finds control tokens in texts.
    parsing: Tokenizer,
    /// Takes them for ordinary text.
    plain: Tokenizer,
    bos: Special,
    eos: Special,
    /// All tokens that end a generation.
    ends: Vec<Token>,
    template: Option<Template>,
}

/// Names of tokens that end a generation in whatever model has them, as llama.cpp looks for
/// them (`llama_vocab::impl::load` in `llama-vocab.cpp`).
const END_NAMES: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// The tokens that end a generation: those of these names, with llama.cpp's two exceptions for
/// vocabularies in which a name means something else, and `eos`.
fn end_tokens(tokenizer: &Tokenizer, eos: Option<Token>) -> Vec<Token> {
    let has = |name: &str| tokenizer.token_to_id(name).is_some();
    let harmony = has("<|return|>") && has("<|call|>");
    let solar = (has("<|call|>") || has("<|calls|>")) && has("<|flush|>");
    let plain_s = has("<|tool_response>") || has("<|plamo:eos|>");
    let other = |name: &str| match name {
        "<|end|>" => harmony || solar,
        "</s>" => plain_s,
        _ => false,
    };
    let names = END_NAMES.into_iter().filter(|name| !other(name));
    let named = names.filter_map(|name| tokenizer.token_to_id(name));
    named.map(|id| id as Token).chain(eos).collect()
}

/// The token that begins or ends a text.
#[derive(Clone, Debug, Default)]
struct Special {
    id: Option<Token>,
    text: String,
    /// Whether texts get it.
    added: bool,
}

impl HfVocabulary {
    /// Reads the tokenizer of a model with a vocabulary of `n_vocab`.
    ///
    /// # Errors
    /// [`HfError`] for files that are missing or damaged, and for a tokenizer with more
    /// tokens than the model has.
    pub fn open(folder: &Path, n_vocab: u32) -> Result<HfVocabulary, HfError> {
        let file = folder.join("tokenizer.json");
        let json = Object::read(&file)?;
        let fail = |reason: String| json.error(HfErrorKind::Tokenizer(reason));
        let mut parsing = Tokenizer::from_file(&file).map_err(|error| fail(error.to_string()))?;
        // A limit on length or a filling up would change texts silently.
        parsing.with_padding(None);
        let untruncated = parsing.with_truncation(None).map(drop);
        untruncated.map_err(|error| fail(error.to_string()))?;
        let vocabulary = parsing.get_vocab(true);
        if let Some((text, id)) = vocabulary.iter().find(|(_, id)| **id >= n_vocab) {
            return Err(fail(format!(
                "token {text:?} has id {id}, but config.json says `vocab_size` {n_vocab}: \
                 it belongs to another model"
            )));
        }
        let mut plain = parsing.clone();
        plain.set_encode_special_tokens(true);

        let settings = Object::read_optional(&folder.join("tokenizer_config.json"))?;
        let config = Object::read(&folder.join("config.json"))?;
        let ends = Ends::of(&json)?;
        let special = |kind: &str, end: &End| -> Result<Special, HfError> {
            let named = settings
                .as_ref()
                .and_then(|settings| token_text(settings, kind));
            let text = match end.wins {
                true => end.token.clone().or(named),
                false => named.or_else(|| end.token.clone()),
            };
            let by_text = text.as_ref().and_then(|text| parsing.token_to_id(text));
            let by_id = config.get(&format!("{kind}_id")).and_then(Value::as_u64);
            let id = by_text.or_else(|| by_id.and_then(|id| u32::try_from(id).ok()));
            let flag = match &settings {
                Some(settings) => settings.flag(&format!("add_{kind}"))?,
                None => None,
            };
            // Another token than the one that begins a text is none that llama.cpp adds.
            let own = end
                .token
                .as_ref()
                .is_none_or(|token| text.as_ref() == Some(token));
            Ok(Special {
                id: id.map(|id| id as Token),
                text: text
                    .or_else(|| parsing.id_to_token(id?))
                    .unwrap_or_default(),
                added: own && end.added.or(flag).unwrap_or(false),
            })
        };
        let (bos, eos) = (
            special("bos_token", &ends.first)?,
            special("eos_token", &ends.last)?,
        );
        Ok(HfVocabulary {
            ends: end_tokens(&parsing, eos.id),
            bos,
            eos,
            template: template(folder, settings.as_ref())?,
            parsing,
            plain,
        })
    }
}

impl Vocabulary for HfVocabulary {
    fn tokenize(
        &self,
        text: &str,
        special: SpecialTokens,
    ) -> Result<Vec<Token>, llama_jola::Error> {
        let tokenizer = if special.parse {
            &self.parsing
        } else {
            &self.plain
        };
        let encoding = tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|error| llama_jola::Error::Tokenize {
            len: text.len(),
            reason: error.to_string(),
        })?;
        let added = |end: &Special| end.id.filter(|_| special.add && end.added);
        let ids = encoding.get_ids().iter().map(|&id| id as Token);
        Ok(added(&self.bos)
            .into_iter()
            .chain(ids)
            .chain(added(&self.eos))
            .collect())
    }

    fn eos(&self) -> Option<Token> {
        self.eos.id
    }

    fn is_eog(&self, token: Token) -> bool {
        self.ends.contains(&token)
    }

    fn adds_bos(&self) -> bool {
        self.bos.added
    }

    fn chat(&self) -> Result<ChatTemplate, llama_jola::Error> {
        let template = self.template.as_ref().ok_or_else(|| {
            let reason = "the model's directory carries none; give the prompt as plain text";
            llama_jola::Error::ChatTemplate(reason.to_owned())
        })?;
        let (bos, eos) = (self.bos.text.clone(), self.eos.text.clone());
        let parsed = ChatTemplate::new(&template.text, bos, eos).map_err(|error| match error {
            llama_jola::Error::ChatTemplate(reason) => {
                let reason = format!("{}: {reason}", template.file.display());
                llama_jola::Error::ChatTemplate(reason)
            }
            other => other,
        })?;
        Ok(parsed.with_bos_added(self.bos.added))
    }
}

/// What the post-processor puts around a text.
#[derive(Default)]
struct Ends {
    first: End,
    last: End,
}

/// What it puts at one end.
#[derive(Default)]
struct End {
    token: Option<String>,
    /// Whether it adds that token; `None` where it does not say.
    added: Option<bool>,
    /// Whether that token goes before the one that `tokenizer_config.json` names.
    wins: bool,
}

impl Ends {
    /// Reads `post_processor` as llama.cpp's converter does (`SpecialVocab` in `gguf-py`): a
    /// template decides, the byte-level one adds nothing. Where a template's token and the one
    /// of `tokenizer_config.json` differ, a text ends with the former and begins with neither.
    fn of(json: &Object) -> Result<Ends, HfError> {
        let post = json.object("post_processor")?;
        let mut ends = Ends::default();
        ends.last.wins = true;
        let own = Value::Object(
            post.iter()
                .map(|(k, v)| (k.to_owned(), v.clone()))
                .collect(),
        );
        let several = post
            .list("processors")?
            .cloned()
            .unwrap_or_else(|| vec![own]);
        for processor in &several {
            match processor["type"].as_str() {
                Some("ByteLevel") => {
                    ends.first.added.get_or_insert(false);
                    ends.last.added.get_or_insert(false);
                }
                Some("TemplateProcessing") => {
                    let single = processor["single"].as_array();
                    let pieces = single.map_or(&[][..], Vec::as_slice);
                    let token = |piece: Option<&Value>| {
                        piece?["SpecialToken"]["id"].as_str().map(str::to_owned)
                    };
                    for (end, piece) in [
                        (&mut ends.first, pieces.first()),
                        (&mut ends.last, pieces.last()),
                    ] {
                        if let Some(token) = token(piece).filter(|_| pieces.len() > 1) {
                            (end.token, end.added) = (Some(token), Some(true));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(ends)
    }
}

/// The text of `bos_token` and the like: a text or an object with `content`.
fn token_text(settings: &Object, key: &str) -> Option<String> {
    let value = settings.get(key)?;
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.map(str::to_owned)
}

/// A chat template and where it stands.
struct Template {
    file: PathBuf,
    text: String,
}

/// The chat template that llama.cpp's converter takes: the one in tokenizer_config.json, which
/// may be one of several, else a file of its own.
fn template(folder: &Path, settings: Option<&Object>) -> Result<Option<Template>, HfError> {
    let Some((settings, value)) = settings.and_then(|settings| {
        let value = settings.get("chat_template")?;
        Some((settings, value))
    }) else {
        return template_file(folder);
    };
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let text = default.and_then(|entry| entry["template"].as_str());
            let bad = || settings.bad("chat_template", "a list with one called default");
            text.map(str::to_owned).ok_or_else(bad)?
        }
        _ => return Err(settings.bad("chat_template", "a text or a list")),
    };
    let file = settings.file().to_owned();
    Ok(Some(Template { file, text }))
}

/// The chat template in chat_template.jinja, else in chat_template.json.
fn template_file(folder: &Path) -> Result<Option<Template>, HfError> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        let text = std::fs::read_to_string(&file).map_err(|source| {
            let action = "read it";
            HfError::new(&file, HfErrorKind::Io { action, source })
        })?;
        return Ok(Some(Template { file, text }));
    }
    let Some(json) = Object::read_optional(&folder.join("chat_template.json"))? else {
        return Ok(None);
    };
    let text = json.get("chat_template").and_then(Value::as_str);
    Ok(text.map(|text| Template {
        file: json.file().to_owned(),
        text: text.to_owned(),
    }))
}
