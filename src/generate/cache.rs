//! What the sequences of a context hold, so that a prompt is decoded only behind what one of
//! them has already.

use std::ops::Range;

use crate::context::{common, Context};
use crate::hook::LoadedEdits;
use crate::model::Token;
use crate::Error;

/// Under which edits keys and values were computed; `None` for those of the context.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Under {
    pub(super) edits: Option<LoadedEdits>,
    pub(super) positions: Range<usize>,
}

impl Under {
    /// The edits of the context.
    pub(super) fn context() -> Self {
        Self {
            edits: None,
            positions: 0..usize::MAX,
        }
    }
}

/// The tokens that a sequence holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) tokens: Vec<Token>,
    under: Under,
}

impl Held {
    /// Nothing, under the edits of the context.
    pub(super) fn nothing() -> Self {
        Self {
            tokens: Vec::new(),
            under: Under::context(),
        }
    }

    /// How many of `tokens` can be taken from here for a sequence under those edits. The last
    /// token is never one of them: its logits are wanted.
    pub(super) fn usable(&self, tokens: &[Token], under: &Under) -> usize {
        match self.under == *under {
            true => common(&self.tokens, tokens),
            false => 0,
        }
    }

    pub(super) fn is_under(&self, under: &Under) -> bool {
        self.under == *under
    }
}

/// Makes sequence `to` hold the first `len` tokens of `from`, under these edits.
///
/// # Errors
/// Those of [`Context::assign_edits`].
pub(super) fn prepare(
    context: &mut Context,
    held: &mut [Held],
    to: usize,
    from: usize,
    len: usize,
    under: &Under,
) -> Result<(), Error> {
    if !held[to].is_under(under) {
        held[to].tokens.clear();
        context.truncate_sequence(to, 0);
        match &under.edits {
            Some(edits) => context.assign_edits(to, edits, under.positions.clone())?,
            None => context.reset_edits_of(to)?,
        }
        held[to].under = under.clone();
    }
    if from != to && len > 0 {
        context.copy_sequence(from, to)?;
        held[to].tokens = held[from].tokens[..len].to_vec();
    }
    held[to].tokens.truncate(len);
    context.truncate_sequence(to, len);
    Ok(())
}
