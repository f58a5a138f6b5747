//! What is asked of the scheduler, and what it answers.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use jola_edit::EditSet;

use crate::model::Token;
use crate::sampler::SamplerParams;
use crate::Error;

/// A prompt to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its tokens.
    pub prompt: Vec<Token>,
    /// Edits of this request; `None`: those of the context. A set stays in device memory for as
    /// long as anybody holds it: keep those that come again.
    pub edits: Option<Arc<EditSet>>,
    /// Which tokens the edits act on, its own or those of the context.
    pub edited: EditedTokens,
    /// Most tokens to generate.
    pub n_predict: usize,
    /// How each token is chosen.
    pub sampling: SamplerParams,
    /// Texts that end the answer, which is given without them.
    pub stop: Vec<String>,
    /// To end it from elsewhere.
    pub cancel: Cancel,
}

impl Request {
    /// At most 256 tokens, always the most likely one, until the model ends.
    pub fn new(prompt: Vec<Token>) -> Self {
        Self {
            prompt,
            edits: None,
            edited: EditedTokens::All,
            n_predict: 256,
            sampling: SamplerParams::greedy(),
            stop: Vec::new(),
            cancel: Cancel::default(),
        }
    }
}

/// Which tokens an edit acts on. Those that follow the prompt count as generated also where they
/// are given to be scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EditedTokens {
    /// All, as edits are trained.
    #[default]
    All,
    /// Those of the prompt.
    Prompt,
    /// From the prompt's last token on: those behind which a token is chosen. Inference-time
    /// intervention (ITI) edits so.
    Generated,
}

impl EditedTokens {
    /// Their positions, behind a prompt of `n_prompt` tokens.
    pub fn positions(self, n_prompt: usize) -> Range<usize> {
        match self {
            Self::All => 0..usize::MAX,
            Self::Prompt => 0..n_prompt,
            Self::Generated => n_prompt.saturating_sub(1)..usize::MAX,
        }
    }
}

/// Ends a request from another thread. Clones end the same request.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the request before its next token.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is ended.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What becomes of a request: tokens, then one of the others.
#[derive(Debug)]
pub enum Event {
    /// A token was chosen.
    Token {
        /// The token.
        token: Token,
        /// Text that is certain by now: of whole characters, and no beginning of a stop text.
        text: String,
    },
    /// It is over.
    End {
        /// Why.
        end: End,
        /// Text that was held back.
        text: String,
    },
    /// It cannot go on.
    Failed(Error),
}

/// Why a request is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Model,
    /// A stop text came.
    Stop,
    /// There are as many tokens as wanted.
    Length,
    /// The context is full.
    ContextFull,
    /// Nobody wants it any more.
    Cancelled,
}

/// Takes what becomes of a request; returning false ends it.
pub type Sink<'a> = Box<dyn FnMut(Event) -> bool + 'a>;
