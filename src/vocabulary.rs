//! What turns text into tokens: llama.cpp's tokenizer of a GGUF, or another that agrees with it.

use crate::chat::ChatTemplate;
use crate::model::{Model, SpecialTokens, Token};
use crate::Error;

/// The tokenizer of a model, with its chat template.
pub trait Vocabulary {
    /// Turns text into tokens.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    fn tokenize(&self, text: &str, special: SpecialTokens) -> Result<Vec<Token>, Error>;

    /// The end-of-sequence token, if the model has one.
    fn eos(&self) -> Option<Token>;

    /// The model's chat template.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when it has none, or one that is not valid Jinja.
    fn chat(&self) -> Result<ChatTemplate, Error>;
}

impl Vocabulary for Model {
    fn tokenize(&self, text: &str, special: SpecialTokens) -> Result<Vec<Token>, Error> {
        Model::tokenize(self, text, special)
    }

    fn eos(&self) -> Option<Token> {
        Model::eos(self)
    }

    fn chat(&self) -> Result<ChatTemplate, Error> {
        ChatTemplate::from_model(self)
    }
}
