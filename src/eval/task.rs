//! Rows to be scored, as tokens, and the context that they need. How they are scored is told
//! apart, in `scoring`, so that the ways of scoring can ask a task about its rows.

use std::sync::Arc;

use super::likelihood::{longest, Question};
use super::{Metric, Params};
use crate::chat::ChatTemplate;
use crate::context::ContextParams;
use crate::data::{choice_tokens, encode, Row, RowError, Turns};
use crate::model::{Model, Token};
use crate::Error;

/// Sequences for likelihoods: enough that short rows fill a micro-batch.
const SEQUENCES: u32 = 64;

/// Texts to choose from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices {
    /// As they stand in the data.
    pub texts: Vec<String>,
    /// Their tokens, as they follow the row's prompt; only where they are to be scored.
    pub tokens: Vec<Vec<Token>>,
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
    /// What the chat template writes before an answer's text, such as an empty block of
    /// thoughts: an answer may begin with it.
    pub lead: String,
    /// What the row chooses from. Rows whose choices have the same tokens share them.
    pub choices: Arc<Choices>,
    /// Where the row stands in its file, counted from 1.
    pub line: usize,
}

/// What turns rows into items.
struct Encoder<'a> {
    model: &'a Model,
    template: Option<&'a ChatTemplate>,
    metric: Metric,
    /// What rows without choices of their own choose from.
    choices: &'a [String],
    /// The choices of the row before.
    last: Arc<Choices>,
}

impl Encoder<'_> {
    /// # Errors
    /// [`Error::EmptyPrompt`], and [`Error::Row`] for what the chat template or the tokenizer
    /// refuses.
    fn item(&mut self, row: &Row) -> Result<Item, Error> {
        let others = row.references.iter().filter(|r| **r != row.completion);
        let of_row = |kind| Error::Row {
            line: row.line,
            kind,
        };
        let examples = encode(row, self.model, self.template, Turns::Last).map_err(of_row)?;
        let mut example = examples.into_iter().next().expect("a row has an example");
        let response = example.tokens.split_off(example.targets[0].start);
        if example.tokens.is_empty() {
            return Err(Error::EmptyPrompt { line: row.line });
        }
        let choices = self.choices(row, &example.tokens).map_err(of_row)?;
        if *self.last != choices {
            self.last = Arc::new(choices);
        }
        Ok(Item {
            prompt: example.tokens,
            response: vec![response],
            accepted: std::iter::once(&row.completion)
                .chain(others)
                .cloned()
                .collect(),
            lead: example.lead,
            choices: self.last.clone(),
            line: row.line,
        })
    }

    fn choices(&self, row: &Row, prompt: &[Token]) -> Result<Choices, RowError> {
        let texts = match row.choices.is_empty() {
            true => self.choices.to_vec(),
            false => row.choices.clone(),
        };
        let scored = texts.iter().filter(|_| self.metric == Metric::Choice);
        let tokens = scored.map(|text| choice_tokens(row, prompt, text, self.model, self.template));
        Ok(Choices {
            tokens: tokens.collect::<Result<_, _>>()?,
            texts,
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
}

impl Task {
    /// Tokenises the rows. `choices` are for rows without choices of their own.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], and [`Error::Row`] for what the chat template or the tokenizer
    /// refuses.
    pub fn new(
        rows: &[Row],
        choices: &[String],
        params: Params,
        model: &Model,
        template: Option<&ChatTemplate>,
    ) -> Result<Self, Error> {
        let mut encoder = Encoder {
            model,
            template,
            metric: params.metric,
            choices,
            last: Arc::default(),
        };
        let items = rows.iter().map(|row| encoder.item(row));
        Ok(Self {
            items: items.collect::<Result<_, _>>()?,
            params,
        })
    }

    /// What is asked of the model for a row when nothing is generated.
    pub(super) fn question<'a>(&'a self, item: &'a Item) -> Question<'a> {
        let continuations = match self.params.metric {
            Metric::Choice => &item.choices.tokens,
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
        self.context_params_for(given, model, 1)
    }

    /// As [`Self::context_params`], for [`Self::run_each`] with so many edit sets.
    ///
    /// # Errors
    /// As [`Self::context_params`].
    pub fn context_params_for(
        &self,
        given: ContextParams,
        model: &Model,
        n_sets: usize,
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
            let answers = u32::try_from(self.items.len() * n_sets).unwrap_or(u32::MAX);
            let n_seq_max = self.params.parallel.min(answers);
            let cells = (longest + self.params.n_predict).min(most) as u32;
            return Ok(ContextParams {
                // As given, though less is used: models may rotate by it.
                n_ctx: most as u32,
                n_cells: cells.saturating_mul(n_seq_max),
                n_seq_max,
                ..given
            });
        }
        // What all prompts begin with, for each set, and a micro-batch or one row with all continuations.
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
            n_cells: (longest * n_sets.min(SEQUENCES as usize) + row.max(given.n_ubatch as usize))
                as u32,
            // llama.cpp computes a token of each at once.
            n_seq_max: SEQUENCES.min(given.n_ubatch.max(1)),
            ..given
        })
    }
}
