//! tokenizer.json, tokenizer_config.json and the chat template, used as llama.cpp uses what
//! its converter makes of them.

use std::path::Path;

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
    template: Option<String>,
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
            let text = named.or_else(|| end.token.clone());
            let by_text = text.as_ref().and_then(|text| parsing.token_to_id(text));
            let by_id = config.get(&format!("{kind}_id")).and_then(Value::as_u64);
            let id = by_text.or_else(|| by_id.and_then(|id| u32::try_from(id).ok()));
            let flag = match &settings {
                Some(settings) => settings.flag(&format!("add_{kind}"))?,
                None => None,
            };
            Ok(Special {
                id: id.map(|id| id as Token),
                text: text
                    .or_else(|| parsing.id_to_token(id?))
                    .unwrap_or_default(),
                added: end.added.or(flag).unwrap_or(false),
            })
        };
        let (bos, eos) = (
            special("bos_token", &ends.first)?,
            special("eos_token", &ends.last)?,
        );
        Ok(HfVocabulary {
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

    fn chat(&self) -> Result<ChatTemplate, llama_jola::Error> {
        let source = self.template.as_deref().ok_or_else(|| {
            let reason = "the model's directory carries none; give the prompt as plain text";
            llama_jola::Error::ChatTemplate(reason.to_owned())
        })?;
        ChatTemplate::new(source, self.bos.text.clone(), self.eos.text.clone())
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
}

impl Ends {
    /// Reads `post_processor` as llama.cpp's converter does: a template decides, the
    /// byte-level one adds nothing.
    fn of(json: &Object) -> Result<Ends, HfError> {
        let post = json.object("post_processor")?;
        let mut ends = Ends::default();
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
                            *end = End {
                                token: Some(token),
                                added: Some(true),
                            };
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

/// The chat template: a file of its own, else the one in tokenizer_config.json, which may
/// be one of several.
fn template(folder: &Path, settings: Option<&Object>) -> Result<Option<String>, HfError> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        let text = std::fs::read_to_string(&file).map_err(|source| {
            let action = "read it";
            HfError::new(&file, HfErrorKind::Io { action, source })
        })?;
        return Ok(Some(text));
    }
    let Some(settings) = settings else {
        return Ok(None);
    };
    match settings.get("chat_template") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let text = default.and_then(|entry| entry["template"].as_str());
            let bad = || settings.bad("chat_template", "a list with one called default");
            text.map(|text| Some(text.to_owned())).ok_or_else(bad)
        }
        Some(_) => Err(settings.bad("chat_template", "a text or a list")),
    }
}
