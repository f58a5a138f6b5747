//! How likely a model finds given continuations of prompts, many of them at once.
//!
//! What continuations of a prompt begin with is computed once: they form a tree of tokens, and
//! each of its leaves is a sequence. A token belongs to all sequences of the leaves above it,
//! so that prompt and tree are decoded in one batch. What all prompts begin with is computed
//! once for all, and as many prompts as fill a micro-batch are decoded together; more would
//! only make attention longer.

use std::collections::HashMap;
use std::ops::Range;

use jola_edit::EditSet;

use crate::context::{Batch, Context};
use crate::generate::EditedTokens;
use crate::hook::LoadedEdits;
use crate::model::Token;
use crate::Error;

/// A prompt with its possible continuations.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Tokens of the prompt, at least one.
    pub prompt: &'a [Token],
    /// Tokens of each continuation.
    pub continuations: &'a [Vec<Token>],
}

/// A token to decode.
struct Node<'a> {
    token: Token,
    position: usize,
    sequences: Range<usize>,
    /// Continuations (by index) that go on with a token behind this one.
    next: &'a [(usize, Token)],
}

/// Continuations of one question that are scored together.
struct ContinuationChunk {
    /// Index of the sequences that score it, and thereby of their edits.
    group: usize,
    /// Index of the question.
    question: usize,
    /// Indices of its continuations.
    continuations: Vec<usize>,
}

/// The log-likelihood (natural logarithm) of every continuation of every question.
/// `at_once` is the number of tokens that is decoded together if questions allow. `done(k)`
/// is called with the number of questions finished so far.
///
/// # Errors
/// [`Error::ContextFull`] when a prompt with a continuation does not fit, and the errors of
/// [`Context::decode`].
///
/// # Panics
/// When a prompt is empty.
pub fn log_likelihoods(
    context: &mut Context,
    questions: &[Question],
    at_once: usize,
    done: impl FnMut(usize),
) -> Result<Vec<Vec<f64>>, Error> {
    let empty = questions.iter().any(|q| q.prompt.is_empty());
    assert!(!empty, "nothing is likely behind an empty prompt");
    let group = Group {
        sequences: 0..context.n_seq_max(),
        own: None,
    };
    let scores = by_groups(context, questions, &[group], at_once, done)?;
    Ok(scores.into_iter().next().unwrap_or_default())
}

/// As [`log_likelihoods`], under each of `sets`, all in the same batches. The edits act on those
/// tokens; continuations count as generated.
///
/// # Errors
/// As [`log_likelihoods`], and those of [`Context::load_edits`].
///
/// # Panics
/// When a prompt is empty.
pub(super) fn log_likelihoods_each(
    context: &mut Context,
    questions: &[Question],
    sets: &[EditSet],
    edited: EditedTokens,
    at_once: usize,
    mut done: impl FnMut(usize),
) -> Result<Vec<Vec<Vec<f64>>>, Error> {
    let mut scores = Vec::new();
    for sets in sets.chunks(context.n_seq_max()) {
        let before = scores.len() * questions.len();
        let size = context.n_seq_max() / sets.len();
        let mut groups = Vec::new();
        for (i, edits) in sets.iter().enumerate() {
            groups.push(Group {
                sequences: i * size..(i + 1) * size,
                own: Some((context.load_edits(edits)?, edited)),
            });
        }
        let of_all = |answered: usize| done(before + answered);
        scores.extend(by_groups(context, questions, &groups, at_once, of_all)?);
    }
    for sequence in 0..context.n_seq_max() {
        context.reset_edits_of(sequence)?;
    }
    Ok(scores)
}

/// Sequences with the same edits.
struct Group {
    sequences: Range<usize>,
    /// Edits of their own, and which tokens they act on.
    own: Option<(LoadedEdits, EditedTokens)>,
}

impl Group {
    /// Gives some of the sequences their edits, for a prompt of that length. What they hold of
    /// the beginning that prompts share stays: each edits all of it, or nothing.
    fn assign(
        &self,
        context: &mut Context,
        mut sequences: Range<usize>,
        n_prompt: usize,
    ) -> Result<(), Error> {
        let Some((edits, edited)) = &self.own else {
            return Ok(());
        };
        let positions = edited.positions(n_prompt);
        sequences.try_for_each(|s| context.assign_edits(s, edits, positions.clone()))
    }
}

/// The log-likelihoods of every group of sequences.
fn by_groups(
    context: &mut Context,
    questions: &[Question],
    groups: &[Group],
    at_once: usize,
    mut done: impl FnMut(usize),
) -> Result<Vec<Vec<Vec<f64>>>, Error> {
    let n_ctx = context.n_ctx();
    if let Some(needed) = questions.iter().map(longest).max().filter(|n| *n > n_ctx) {
        return Err(Error::ContextFull { needed, n_ctx });
    }
    let prompts: Vec<&[Token]> = questions.iter().map(|q| q.prompt).collect();
    let longest_prompt = prompts.iter().map(|prompt| prompt.len()).max();
    for group in groups {
        group.assign(
            context,
            group.sequences.clone(),
            longest_prompt.unwrap_or(0),
        )?;
    }
    let begun = match groups {
        [_] => context.share_beginning(&prompts)?,
        _ => {
            let ranges: Vec<_> = groups.iter().map(|group| group.sequences.clone()).collect();
            context.share_among(&prompts, &ranges)?
        }
    };
    let none: Vec<Vec<f64>> = questions
        .iter()
        .map(|q| vec![0.0; q.continuations.len()])
        .collect();
    let mut scores = vec![none; groups.len()];

    let chunks = chunks(questions, groups, context);
    let mut waiting = chunks.iter().peekable();
    while waiting.peek().is_some() {
        let mut together = Vec::new();
        let mut tokens = 0;
        let mut used = vec![0; groups.len()];
        while let Some(chunk) = waiting.peek() {
            let question = &questions[chunk.question];
            let group = &groups[chunk.group];
            let used = &mut used[chunk.group];
            let tree = Tree::new(question, &chunk.continuations);
            let fits = tokens + tree.len(begun) <= at_once
                && *used + tree.n_sequences() <= group.sequences.len();
            if !together.is_empty() && !fits {
                break;
            }
            let first = group.sequences.start + *used;
            let sequences = first..first + tree.n_sequences();
            group.assign(context, sequences, question.prompt.len())?;
            tokens += tree.len(begun);
            *used += tree.n_sequences();
            together.push((*chunk, first, tree));
            waiting.next();
        }
        let nodes = together.iter().flat_map(|(chunk, first, tree)| {
            tree.nodes(begun, *first).map(move |node| (*chunk, node))
        });
        decode(context, nodes, |chunk, continuation, log_p| {
            scores[chunk.group][chunk.question][continuation] += log_p;
        })?;
        for (group, used) in groups.iter().zip(used) {
            for sequence in group.sequences.clone().take(used) {
                context.truncate_sequence(sequence, begun);
            }
        }
        let answered = |chunk: &&ContinuationChunk| chunk.question * groups.len() + chunk.group;
        done(
            waiting
                .peek()
                .map_or(questions.len() * groups.len(), answered),
        );
    }
    Ok(scores)
}

/// Tokens of a question's prompt with its longest continuation.
pub fn longest(question: &Question) -> usize {
    let continuation = question.continuations.iter().map(Vec::len).max();
    question.prompt.len() + continuation.unwrap_or(0)
}

/// Splits questions with more continuations than a group has sequences. In models with
/// recurrent layers sequences cannot part from each other: one continuation at a time.
fn chunks(questions: &[Question], groups: &[Group], context: &Context) -> Vec<ContinuationChunk> {
    let mut chunks = Vec::new();
    for (question, asked) in questions.iter().enumerate() {
        // In order, so that beginnings in common stay together.
        let mut order: Vec<usize> = (0..asked.continuations.len()).collect();
        order.sort_by_key(|i| &asked.continuations[*i]);
        for (group, Group { sequences, .. }) in groups.iter().enumerate() {
            let at_once = match context.model().is_recurrent() {
                true => 1,
                false => sequences.len(),
            };
            chunks.extend(
                order
                    .chunks(at_once)
                    .map(|continuations| ContinuationChunk {
                        group,
                        question,
                        continuations: continuations.to_vec(),
                    }),
            );
        }
    }
    chunks
}

/// The prompt and what the continuations begin with. Their last tokens are only looked up.
struct Tree<'a> {
    prompt: &'a [Token],
    /// All but the last token of the continuations, in order, none the beginning of another;
    /// at least one, though it may be empty.
    leaves: Vec<&'a [Token]>,
    /// By beginning: which continuations go on from there, and with which token.
    next: HashMap<&'a [Token], Vec<(usize, Token)>>,
}

impl<'a> Tree<'a> {
    fn new(question: &Question<'a>, continuations: &[usize]) -> Self {
        let mut leaves: Vec<&[Token]> = vec![&[]];
        let mut next: HashMap<&[Token], Vec<(usize, Token)>> = HashMap::new();
        for &i in continuations {
            let tokens = question.continuations[i].as_slice();
            for (k, &token) in tokens.iter().enumerate() {
                next.entry(&tokens[..k]).or_default().push((i, token));
            }
            leaves.extend(tokens.split_last().map(|(_, beginning)| beginning));
        }
        leaves.sort_unstable();
        leaves.dedup_by(|longer, shorter| {
            let same = longer.starts_with(shorter);
            if same {
                *shorter = longer;
            }
            same
        });
        Self {
            prompt: question.prompt,
            leaves,
            next,
        }
    }

    fn n_sequences(&self) -> usize {
        self.leaves.len()
    }

    /// Tokens to decode behind the `begun` first of the prompt.
    fn len(&self, begun: usize) -> usize {
        self.prompt.len() - begun + self.inner().count()
    }

    /// The tokens behind the prompt: by depth from 0, each with its leaves.
    fn inner(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let deepest = self.leaves.iter().map(|leaf| leaf.len()).max().unwrap_or(0);
        (0..deepest).flat_map(move |depth| {
            let mut first = 0;
            std::iter::from_fn(move || {
                while self.leaves.get(first)?.len() <= depth {
                    first += 1;
                }
                let beginning = &self.leaves[first][..=depth];
                let same = |leaf: &&&[Token]| leaf.starts_with(beginning);
                let end = first + self.leaves[first..].iter().take_while(same).count();
                let range = first..end;
                first = end;
                Some((depth, range))
            })
        })
    }

    /// All tokens to decode, with sequences counted from `first`.
    fn nodes(&self, begun: usize, first: usize) -> impl Iterator<Item = Node<'_>> + '_ {
        let next = |beginning: &[Token]| self.next.get(beginning).map_or(&[][..], Vec::as_slice);
        let last = self.prompt.len() - 1;
        let prompt = (begun..=last).map(move |position| Node {
            token: self.prompt[position],
            position,
            sequences: first..first + self.n_sequences(),
            next: if position == last { next(&[]) } else { &[] },
        });
        let inner = self.inner().map(move |(depth, leaves)| {
            let beginning = &self.leaves[leaves.start][..=depth];
            Node {
                token: beginning[depth],
                position: self.prompt.len() + depth,
                sequences: first + leaves.start..first + leaves.end,
                next: next(beginning),
            }
        });
        prompt.chain(inner)
    }
}

/// Decodes nodes of several questions; `found` is given chunk, continuation and the
/// log-likelihood of one token.
fn decode<'a>(
    context: &mut Context,
    nodes: impl Iterator<Item = (&'a ContinuationChunk, Node<'a>)>,
    mut found: impl FnMut(&ContinuationChunk, usize, f64),
) -> Result<(), Error> {
    let mut nodes = nodes.peekable();
    while nodes.peek().is_some() {
        let mut batch = Batch::new();
        let mut outputs = Vec::new();
        for (chunk, node) in nodes.by_ref().take(context.n_batch()) {
            if !node.next.is_empty() {
                outputs.push((batch.len(), chunk, node.next));
            }
            let output = !node.next.is_empty();
            batch.push_shared(node.token, node.position, node.sequences, output);
        }
        context.decode(&batch)?;
        for (index, chunk, next) in outputs {
            let logits = context.logits(index as i32);
            let log_sum = log_sum_exp(logits);
            for &(continuation, token) in next {
                found(
                    chunk,
                    continuation,
                    f64::from(logits[token as usize]) - log_sum,
                );
            }
        }
    }
    Ok(())
}

/// ln Σ exp(logits)
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - max).exp()).sum();
    max + sum.ln()
}

/// Natural-logarithm softmax in f64.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let log_sum = log_sum_exp(logits);
    logits.iter().map(|l| f64::from(*l) - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_sums_to_one_and_survives_large_logits() {
        let p: f64 = log_softmax(&[1000.0, 999.0, -1e9])
            .iter()
            .map(|l| l.exp())
            .sum();
        assert!((p - 1.0).abs() < 1e-12);
    }

    /// Tokens, positions and sequences that are decoded, and what is looked up behind them.
    fn decoded(continuations: &[Vec<Token>], begun: usize) -> Vec<String> {
        let question = Question {
            prompt: &[10, 11],
            continuations,
        };
        let order: Vec<usize> = (0..continuations.len()).collect();
        let tree = Tree::new(&question, &order);
        let nodes: Vec<Node> = tree.nodes(begun, 5).collect();
        assert_eq!(nodes.len(), tree.len(begun));
        let show = |n: &Node| {
            let Range { start, end } = n.sequences;
            format!(
                "{}@{} {start}-{} {:?}",
                n.token,
                n.position,
                end - 1,
                n.next
            )
        };
        nodes.iter().map(show).collect()
    }

    #[test]
    fn beginnings_in_common_are_decoded_once() {
        let continuations = [
            vec![1, 2, 3],
            vec![1, 2, 4],
            vec![1, 5],
            vec![6, 7],
            vec![8],
        ];
        assert_eq!(
            decoded(&continuations, 0),
            [
                "10@0 5-6 []",
                "11@1 5-6 [(0, 1), (1, 1), (2, 1), (3, 6), (4, 8)]",
                "1@2 5-5 [(0, 2), (1, 2), (2, 5)]",
                "6@2 6-6 [(3, 7)]",
                "2@3 5-5 [(0, 3), (1, 4)]",
            ]
        );
        assert_eq!(decoded(&continuations, 1).len(), 4);
    }

    #[test]
    fn sequences_part_where_continuations_do() {
        assert_eq!(
            decoded(&[vec![1, 3, 0], vec![1, 2, 0], vec![]], 1),
            [
                "11@1 5-6 [(0, 1), (1, 1)]",
                "1@2 5-6 [(0, 3), (1, 2)]",
                "2@3 5-5 [(1, 0)]",
                "3@3 6-6 [(0, 0)]",
            ]
        );
    }

    #[test]
    fn one_token_needs_no_tree() {
        assert_eq!(
            decoded(&[vec![1], vec![2]], 1),
            ["11@1 5-5 [(0, 1), (1, 2)]"]
        );
    }
}
