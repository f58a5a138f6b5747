//! What a sidecar says about its training, and whether it is used as it was trained.
//!
//! An edit that is used on another kind of prompt, with another template or on other weights
//! than it was trained for does little or harm, and nothing fails. So the trainer notes these
//! things in the file (`jola.train.*`), and whoever loads it can ask for [`Doubt`]s. All notes
//! are optional, and what cannot be read is taken for absent: files without them load as ever.

use super::weights::BaseWeights;
use super::Sidecar;
use crate::gguf::{GgufErrorKind, Metadata, Value};

/// Keys below `jola.train.`.
mod keys {
    pub const FORMAT: &str = "format";
    pub const TEMPLATE: &str = "template_sha256";
    pub const TURNS: &str = "turns";
    pub const BASE_BYTES: &str = "base_bytes";
    pub const BASE_SAMPLE: &str = "base_sample_sha256";
    pub const BASE_NORMS: &str = "base_norms_sha256";
}

/// What the rows that an edit was trained on looked like to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// Text as it stands.
    Plain,
    /// Conversations, rendered by a chat template.
    Chat,
    /// Some of both.
    Mixed,
}

impl RowFormat {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Chat => "chat",
            Self::Mixed => "mixed",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Plain, Self::Chat, Self::Mixed];
        all.into_iter().find(|format| format.name() == name)
    }
}

/// How an edit was trained, as far as its use must agree with that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Training {
    /// What the rows were.
    pub format: Option<RowFormat>,
    /// SHA-256 of the chat template's text, if any row was a conversation.
    pub template_sha256: Option<String>,
    /// Which turns of conversations were learned: `all` or `last`.
    pub turns: Option<String>,
    /// The weights that were trained on.
    pub base: BaseWeights,
}

impl Training {
    /// Adds what is known to the entries of [`Sidecar::train`].
    ///
    /// # Errors
    /// `DuplicateKey`.
    pub fn note(&self, train: &mut Metadata) -> Result<(), GgufErrorKind> {
        let format = self.format.map(RowFormat::name);
        let texts = [
            (keys::FORMAT, format),
            (keys::TEMPLATE, self.template_sha256.as_deref()),
            (keys::TURNS, self.turns.as_deref()),
            (keys::BASE_SAMPLE, self.base.sample_sha256.as_deref()),
            (keys::BASE_NORMS, self.base.norms_sha256.as_deref()),
        ];
        if let Some(bytes) = self.base.bytes {
            train.insert(keys::BASE_BYTES, bytes)?;
        }
        for (key, text) in texts {
            if let Some(text) = text {
                train.insert(key, text)?;
            }
        }
        Ok(())
    }

    /// The trained edit in a few words, for logs; `None` when nothing is known.
    pub fn describe(&self) -> Option<String> {
        let turns = match self.turns.as_deref() {
            Some("all") => ", all turns of the assistant",
            Some("last") => ", the last turn",
            _ => "",
        };
        Some(match self.format? {
            RowFormat::Plain => "trained on plain text, without a chat template".to_owned(),
            RowFormat::Chat => format!("trained on conversations, by a chat template{turns}"),
            RowFormat::Mixed => {
                format!("trained on plain text and on conversations, by a chat template{turns}")
            }
        })
    }
}

/// A reason to think that an edit is not used as it was trained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The base is stored in another way: most likely another quantisation.
    #[error(
        "trained on a base file of {trained_on} bytes, this one has {found}: another \
         quantisation of it?"
    )]
    OtherFile {
        /// Size of the file that it was trained on.
        trained_on: u64,
        /// Size of the file at hand.
        found: u64,
    },
    /// The base has the shape that the edit needs, and other weights.
    #[error(
        "trained on another model of the same shape: the weights of this one are not those \
         that the edit was made for"
    )]
    OtherWeights,
    /// The prompt does not go through a chat template.
    #[error("trained on conversations, and used on plain text without the chat template")]
    PlainPrompt,
    /// The prompt goes through a chat template.
    #[error("trained on plain text, and used with the chat template")]
    ChatPrompt,
    /// The model's chat template is not the one of the training.
    #[error("trained with another chat template than the one of this model")]
    OtherTemplate,
}

impl Sidecar {
    /// What the file says about its training.
    pub fn training(&self) -> Training {
        let value = |key| self.train.get(key);
        let text = |key| value(key).and_then(Value::as_str).map(str::to_owned);
        Training {
            format: value(keys::FORMAT)
                .and_then(Value::as_str)
                .and_then(RowFormat::from_name),
            template_sha256: text(keys::TEMPLATE),
            turns: text(keys::TURNS),
            base: BaseWeights {
                bytes: value(keys::BASE_BYTES).and_then(Value::as_u64),
                sample_sha256: text(keys::BASE_SAMPLE),
                norms_sha256: text(keys::BASE_NORMS),
            },
        }
    }

    /// Whether `base` may be another model than the one trained on. Another quantisation has
    /// the same norms and another size; a fine-tune of the same size has other numbers.
    pub fn doubt_base(&self, base: &BaseWeights) -> Option<Doubt> {
        let trained = self.training().base;
        let differ = |a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) => Some(a != b),
            _ => None,
        };
        let sample = differ(&trained.sample_sha256, &base.sample_sha256);
        if sample == Some(false) {
            return None;
        }
        if differ(&trained.norms_sha256, &base.norms_sha256) == Some(true) {
            return Some(Doubt::OtherWeights);
        }
        match (trained.bytes, base.bytes) {
            (Some(trained_on), Some(found)) if trained_on != found => {
                Some(Doubt::OtherFile { trained_on, found })
            }
            _ => sample.map(|_| Doubt::OtherWeights),
        }
    }

    /// Whether the edit was trained on another kind of prompt than one that goes through the
    /// chat template of this SHA-256, or through none.
    pub fn doubt_prompt(&self, template_sha256: Option<&str>) -> Option<Doubt> {
        match (self.training().format?, template_sha256) {
            (RowFormat::Chat, None) => Some(Doubt::PlainPrompt),
            (RowFormat::Plain, Some(_)) => Some(Doubt::ChatPrompt),
            (_, Some(used)) => self.doubt_template(used),
            (_, None) => None,
        }
    }

    /// Whether the edit was trained with another chat template than the one of this SHA-256.
    pub fn doubt_template(&self, sha256: &str) -> Option<Doubt> {
        let trained = self.training().template_sha256?;
        (trained != sha256).then_some(Doubt::OtherTemplate)
    }
}
