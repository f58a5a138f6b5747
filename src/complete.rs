//! Text in, text out: the model's answer to a prompt or a conversation, whole or piece by piece.

use crate::chat::{ChatTemplate, Prompt};
use crate::context::Context;
use crate::generate::{generate_each, EditedTokens, Request, Utf8Stream};
use crate::sampler::SamplerParams;
use crate::Error;

/// How a text is continued.
#[derive(Clone, Debug)]
pub struct CompletionParams {
    /// Most tokens to generate.
    pub n_predict: usize,
    /// How each token is chosen.
    pub sampling: SamplerParams,
    /// Which tokens the context's edits act on; of a conversation the prompt is all before the
    /// answer.
    pub edited: EditedTokens,
}

impl Default for CompletionParams {
    /// At most 256 tokens, always the most likely one.
    fn default() -> Self {
        Self {
            n_predict: 256,
            sampling: SamplerParams::greedy(),
            edited: EditedTokens::All,
        }
    }
}

impl Context {
    /// Continues a text, or answers a conversation by the model's own chat template, until the
    /// model ends it, `n_predict` tokens are there or the context is full. What the context
    /// held before is forgotten.
    ///
    /// ```no_run
    /// # use llama_jola::chat::Message;
    /// # use llama_jola::{CompletionParams, Context, Error};
    /// # fn example(context: &mut Context) -> Result<(), Error> {
    /// let params = CompletionParams::default();
    /// let team = context.complete("Message: where is my parcel?\nTeam:", &params)?;
    /// let answer = context.complete(vec![Message::new("user", "Who are you?")], &params)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoPrompt`], and those of the chat template, the tokenizer and
    /// [`generate_each`].
    pub fn complete(
        &mut self,
        prompt: impl Into<Prompt>,
        params: &CompletionParams,
    ) -> Result<String, Error> {
        self.stream(prompt, params, |_| true)
    }

    /// As [`Self::complete`], which also shows each piece of the text to `on_text` as soon as
    /// its characters are whole; returning false ends the text after it.
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub fn stream(
        &mut self,
        prompt: impl Into<Prompt>,
        params: &CompletionParams,
        mut on_text: impl FnMut(&str) -> bool,
    ) -> Result<String, Error> {
        let model = self.model().clone();
        let prompt = prompt.into();
        let template = match prompt {
            Prompt::Plain(_) => None,
            Prompt::Chat(_) => Some(ChatTemplate::from_model(&model)?),
        };
        let tokens = model.tokenize_prompt(&prompt.text(template.as_ref())?)?;
        if tokens.is_empty() {
            return Err(Error::NoPrompt);
        }
        let mut characters = Utf8Stream::default();
        let mut text = String::new();
        let mut wanted = true;
        let request = Request {
            n_predict: params.n_predict,
            sampling: params.sampling.clone(),
            edited: params.edited,
            ..Request::new(tokens)
        };
        generate_each(self, vec![request], |_, token| {
            // The sampler chooses from the vocabulary: every token has a piece.
            let piece = model.token_to_piece(token).unwrap_or_default();
            let piece = characters.push(&piece);
            text.push_str(&piece);
            wanted = piece.is_empty() || on_text(&piece);
            wanted
        })?;
        let rest = characters.finish();
        if wanted && !rest.is_empty() {
            text.push_str(&rest);
            on_text(&rest);
        }
        Ok(text)
    }
}
