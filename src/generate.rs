//! Generation for one or many prompts, as many sequences at once as the context has. This is
//! in tokens; [`Context::complete`] is the same for one text.

use std::collections::VecDeque;

use crate::context::{Batch, Context};
use crate::model::Token;
use crate::sampler::{Sampler, SamplerParams};
use crate::Error;

/// One sequence under way.
struct Slot {
    /// Index of its prompt.
    prompt: usize,
    /// Tokens not decoded yet: the prompt, later the last token chosen.
    pending: VecDeque<Token>,
    /// Tokens decoded so far.
    position: usize,
    /// Index in the batch of the token whose logits choose the next one.
    output: Option<usize>,
    sampler: Sampler,
}

/// What the model made of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// The tokens chosen, without the one that ends the generation.
    pub tokens: Vec<Token>,
    /// Whether the model itself ended it; not when it was cut off.
    pub ended: bool,
}

/// Continues every prompt by at most `n_predict` tokens, until the model ends it or the
/// context is full, and returns what was chosen for each.
/// `on_token(prompt, token)` sees each token as it is chosen; returning false ends that
/// sequence after it. The context is emptied first; what all prompts begin with is decoded
/// once.
///
/// ```no_run
/// # use llama_jola::generate::generate;
/// # use llama_jola::sampler::SamplerParams;
/// # use llama_jola::{Context, Error};
/// # fn example(context: &mut Context) -> Result<(), Error> {
/// let model = context.model().clone();
/// let prompts = ["Message: where is my parcel?\nTeam:", "Message: I was billed twice.\nTeam:"]
///     .map(|text| model.tokenize_prompt(text));
/// let prompts = prompts.into_iter().collect::<Result<Vec<_>, _>>()?;
/// let answers = generate(context, &prompts, 8, &SamplerParams::greedy(), |_, _| true)?;
/// for answer in answers {
///     println!("{}", model.detokenize(&answer.tokens)?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::ContextFull`] for a prompt that leaves no room for a single token, before
/// anything is decoded, and the errors of [`Context::decode`].
pub fn generate(
    context: &mut Context,
    prompts: &[Vec<Token>],
    n_predict: usize,
    sampling: &SamplerParams,
    mut on_token: impl FnMut(usize, Token) -> bool,
) -> Result<Vec<Generated>, Error> {
    let n_ctx = context.n_ctx();
    if let Some(longest) = prompts
        .iter()
        .map(Vec::len)
        .max()
        .filter(|len| *len >= n_ctx)
    {
        return Err(Error::ContextFull {
            needed: longest + 1,
            n_ctx,
        });
    }
    let begun = {
        let prompts: Vec<&[Token]> = prompts.iter().map(Vec::as_slice).collect();
        context.share_beginning(&prompts)?
    };
    let model = context.model().clone();
    let mut results = vec![Generated::default(); prompts.len()];
    let mut waiting: VecDeque<usize> = (0..prompts.len())
        .filter(|i| n_predict > 0 && !prompts[*i].is_empty())
        .collect();
    let mut slots: Vec<Option<Slot>> = (0..context.n_seq_max()).map(|_| None).collect();

    loop {
        for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
            *slot = waiting.pop_front().map(|prompt| Slot {
                prompt,
                pending: prompts[prompt][begun..].iter().copied().collect(),
                position: begun,
                output: None,
                sampler: Sampler::new(sampling),
            });
        }
        let batch = next_batch(&mut slots, context.n_batch());
        if batch.is_empty() {
            return Ok(results);
        }
        context.decode(&batch)?;
        for (sequence, entry) in slots.iter_mut().enumerate() {
            let Some(slot) = entry else { continue };
            let Some(index) = slot.output.take() else {
                continue;
            };
            let token = slot.sampler.sample(context, index as i32)?;
            let result = &mut results[slot.prompt];
            result.ended = model.is_eog(token);
            let stopped = result.ended || {
                result.tokens.push(token);
                !on_token(slot.prompt, token)
            };
            if stopped || result.tokens.len() == n_predict || slot.position == n_ctx {
                context.truncate_sequence(sequence, begun);
                *entry = None;
            } else {
                slot.pending.push_back(token);
            }
        }
    }
}

/// Moves pending tokens of all slots into a batch: sequences that only need their last
/// token first, so that long prompts do not hold them up.
fn next_batch(slots: &mut [Option<Slot>], n_batch: usize) -> Batch {
    let mut batch = Batch::new();
    let mut order: Vec<usize> = (0..slots.len()).filter(|i| slots[*i].is_some()).collect();
    order.sort_by_key(|i| slots[*i].as_ref().map_or(0, |slot| slot.pending.len()));
    for sequence in order {
        let Some(slot) = &mut slots[sequence] else {
            continue;
        };
        while batch.len() < n_batch {
            let Some(token) = slot.pending.pop_front() else {
                break;
            };
            let last = slot.pending.is_empty();
            if last {
                slot.output = Some(batch.len());
            }
            batch.push(token, slot.position, sequence, last);
            slot.position += 1;
        }
    }
    batch
}

/// Joins the pieces of tokens to text, holding back bytes of unfinished characters.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    bytes: Vec<u8>,
}

impl Utf8Stream {
    /// Takes a piece and returns the text that is complete now.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.bytes.extend_from_slice(piece);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.bytes.clear();
                    return text;
                }
                Err(error) => {
                    let rest = self.bytes.split_off(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(&self.bytes));
                    self.bytes = rest;
                    match error.error_len() {
                        None => return text,
                        Some(bad) => {
                            self.bytes.drain(..bad);
                            text.push('\u{fffd}');
                        }
                    }
                }
            }
        }
    }

    /// The text of what is left, with U+FFFD for an unfinished character.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_characters_come_out_whole() {
        let mut stream = Utf8Stream::default();
        let text = "Grüße 🦙";
        let out: String = text.bytes().map(|b| stream.push(&[b])).collect();
        assert_eq!(out + &stream.finish(), text);
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(stream.push(b"\xf0\x9f"), "");
        assert_eq!(stream.finish(), "\u{fffd}");
    }
}
