//! What one call of llama.cpp decodes: tokens with their positions and sequences.

use std::ops::Range;

use crate::model::Token;

/// Tokens to decode in one call, possibly of several sequences.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(super) tokens: Vec<Token>,
    pub(super) positions: Vec<i32>,
    /// Of all tokens, one after the other.
    pub(super) sequences: Vec<i32>,
    /// How many of `sequences` belong to each token.
    pub(super) n_sequences: Vec<i32>,
    pub(super) outputs: Vec<i8>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `token` at `position` of sequence `sequence`; `output` asks for its logits.
    pub fn push(&mut self, token: Token, position: usize, sequence: usize, output: bool) {
        self.push_shared(
            token,
            position,
            sequence..sequence.saturating_add(1),
            output,
        );
    }

    /// Adds a token that several sequences have in common: it is computed once.
    pub fn push_shared(
        &mut self,
        token: Token,
        position: usize,
        sequences: Range<usize>,
        output: bool,
    ) {
        // What does not fit lies beyond any context's end, which decoding finds.
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        self.tokens.push(token);
        self.positions.push(number(position));
        self.n_sequences.push(number(sequences.len()));
        self.sequences.extend(sequences.map(number));
        self.outputs.push(output.into());
    }

    /// Position of the first token of which not all sequences `agree` with the first.
    pub(super) fn first_shared_unless(&self, agree: impl Fn(i32, i32) -> bool) -> Option<usize> {
        let mut rest = self.sequences.as_slice();
        let mut differ = |n: i32| {
            let (of_token, others) = rest.split_at(n as usize);
            rest = others;
            of_token.iter().any(|other| !agree(of_token[0], *other))
        };
        let index = self.n_sequences.iter().position(|n| differ(*n))?;
        Some(self.positions[index] as usize)
    }

    /// Tokens with their sequences, of a batch in which none is shared.
    pub(crate) fn singles(&self) -> impl Iterator<Item = (Token, usize)> + '_ {
        let sequences = self.sequences.iter().map(|sequence| *sequence as usize);
        self.tokens.iter().copied().zip(sequences)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Takes all tokens out.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
