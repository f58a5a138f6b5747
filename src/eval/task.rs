//! Rows to be scored, as tokens, and the context that they need. How they are scored is told
//! apart, in `scoring`, so that the ways of scoring can ask a task about its rows.

use super::likelihood::{longest, Question};
use super::{Metric, Params};
use crate::chat::ChatTemplate;
use crate::context::ContextParams;
use crate::data::{encode, Row};
use crate::model::{Model, SpecialTokens, Token};
use crate::Error;

/// Sequences for likelihoods: enough that short rows fill a micro-batch.
const SEQUENCES: u32 = 64;

/// Texts to choose from.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// As they stand in the data.
    pub texts: Vec<String>,
    /// Their tokens, as they follow a prompt.
    pub tokens: Vec<Vec<Token>>,
}

impl Choices {
    /// Tokenises `texts` as what goes on behind a prompt.
    ///
    /// # Errors
    /// Those of [`Model::tokenize`].
    pub fn new(texts: Vec<String>, model: &Model) -> Result<Self, Error> {
        let tokens = texts
            .iter()
            .map(|text| model.tokenize(text, SpecialTokens::NONE));
        Ok(Self {
            tokens: tokens.collect::<Result<_, _>>()?,
            texts,
        })
    }
}

/// A row to be scored.
#[derive(Clone, Debug)]
pub struct Item {
    /// The prompt's tokens.
    pub prompt: Vec<Token>,
    /// The completion's tokens with the one that ends it, as in training.
    pub response: Vec<Vec<Token>>,
    /// Accepted texts, compared without white space around them.
    pub accepted: Vec<String>,
    /// The row's own choices; without them those of the task.
    pub choices: Option<Choices>,
    /// Where the row stands in its file, counted from 1.
    pub line: usize,
}

impl Item {
    /// # Errors
    /// [`Error::EmptyPrompt`], and those of the chat template and the tokenizer.
    fn new(row: &Row, model: &Model, template: Option<&ChatTemplate>) -> Result<Self, Error> {
        let others = row.references.iter().filter(|r| **r != row.completion);
        let mut prompt = encode(row, model, template)?;
        let response = prompt.tokens.split_off(prompt.n_prompt);
        if prompt.tokens.is_empty() {
            return Err(Error::EmptyPrompt { line: row.line });
        }
        Ok(Self {
            prompt: prompt.tokens,
            response: vec![response],
            accepted: std::iter::once(&row.completion)
                .chain(others)
                .cloned()
                .collect(),
            choices: match row.choices.is_empty() {
                true => None,
                false => Some(Choices::new(row.choices.clone(), model)?),
            },
            line: row.line,
        })
    }
}

/// Rows with how to score them.
#[derive(Clone, Debug)]
pub struct Task {
    /// How to score.
    pub params: Params,
    /// The rows, at least one.
    pub items: Vec<Item>,
    /// What rows without choices of their own choose from.
    pub choices: Choices,
}

impl Task {
    /// Tokenises the rows. `choices` are for rows without choices of their own.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], and those of the chat template and the tokenizer.
    pub fn new(
        rows: &[Row],
        choices: Vec<String>,
        params: Params,
        model: &Model,
        template: Option<&ChatTemplate>,
    ) -> Result<Self, Error> {
        let items = rows.iter().map(|row| Item::new(row, model, template));
        Ok(Self {
            items: items.collect::<Result<_, _>>()?,
            choices: Choices::new(choices, model)?,
            params,
        })
    }

    /// The choices of one of the rows.
    pub(super) fn choices_of<'a>(&'a self, item: &'a Item) -> &'a Choices {
        item.choices.as_ref().unwrap_or(&self.choices)
    }

    /// What is asked of the model for a row when nothing is generated.
    pub(super) fn question<'a>(&'a self, item: &'a Item) -> Question<'a> {
        let continuations = match self.params.metric {
            Metric::Choice => &self.choices_of(item).tokens,
            Metric::Perplexity => &item.response,
            _ => &[][..],
        };
        Question {
            prompt: &item.prompt,
            continuations,
        }
    }

    /// The size of context that the rows need, within the `n_ctx` of `given`.
    ///
    /// # Errors
    /// [`Error::RowTooLong`].
    pub fn context_params(
        &self,
        given: ContextParams,
        model: &Model,
    ) -> Result<ContextParams, Error> {
        let most = match given.n_ctx {
            0 => model.n_ctx_train(),
            n => n as usize,
        };
        let generates = self.params.metric.generates();
        // An answer may be cut short by the context, but it needs one token.
        let needed = |item: &Item| longest(&self.question(item)) + usize::from(generates);
        if let Some(item) = self.items.iter().find(|item| needed(item) > most) {
            return Err(Error::RowTooLong {
                line: item.line,
                needed: needed(item),
                n_ctx: most,
            });
        }
        let longest = self.items.iter().map(needed).max().unwrap_or(0);
        if generates {
            return Ok(ContextParams {
                n_ctx: (longest + self.params.n_predict).min(most) as u32,
                n_seq_max: self.params.parallel.min(self.items.len() as u32),
                ..given
            });
        }
        // What all prompts begin with, and a micro-batch or one row with all continuations.
        let tokens = |item: &Item| {
            let Question {
                prompt,
                continuations,
            } = self.question(item);
            prompt.len() + continuations.iter().map(Vec::len).sum::<usize>()
        };
        let row = self.items.iter().map(tokens).max().unwrap_or(0);
        Ok(ContextParams {
            n_ctx: most as u32,
            n_cells: (longest + row.max(given.n_ubatch as usize)) as u32,
            n_seq_max: SEQUENCES,
            ..given
        })
    }
}
