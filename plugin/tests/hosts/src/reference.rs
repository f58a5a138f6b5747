//! What `llama-jola` itself computes, and how far a host is from it.
//!
//! A host's continuation is fed to the reference token by token ("teacher forcing"), so that
//! each place is compared on its own and one close call does not spoil the rest of the text.

use std::fmt;

use anyhow::{ensure, Context as _, Result};
use jola_edit::Sidecar;
use llama_jola::{Batch, CacheType, Context, ContextParams, FlashAttention, Model};

use crate::client::Completion;

/// How far a host may be from the reference. Differences are of log-probabilities, in nats.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Where the reference prefers another token than the host by less than this, the place
    /// counts as a tie, neither right nor wrong.
    pub tie: f64,
    /// Largest mean difference over all places and the likeliest tokens of each.
    pub mean: f64,
    /// Largest mean difference at the first token of any prompt.
    pub first: f64,
    /// Least mean difference from a wrong reference.
    pub other: f64,
}

impl Tolerance {
    /// Half again as much as a host differs by without edits, where that is more.
    pub fn no_less_than(self, unedited: &Agreement) -> Self {
        Self {
            mean: self.mean.max(1.5 * unedited.mean),
            first: self.first.max(1.5 * unedited.first),
            ..self
        }
    }
}

/// For a quantised base. llama.cpp quantises activations too, and hosts do it with other
/// kernels and batch shapes: without any edit, hosts differ from the reference by a mean of
/// 0.075 on the model of the tests, with edits and several sequences by up to 0.093, by the
/// kind of processor. A wrong edit differs by 0.38 and more.
pub const QUANTISED: Tolerance = Tolerance {
    tie: 0.3,
    mean: 0.13,
    first: 0.25,
    other: 0.30,
};
/// The same for a trained edit, which moves the model far more than the made-up ones, by 9 nats
/// instead of 0.5: at a first token Vulkan differs by 0.283.
pub const TRAINED: Tolerance = Tolerance {
    first: 0.35,
    ..QUANTISED
};
/// For a base in 32-bit floats: what remains is the order of sums, and 16-bit floats in
/// the cache.
pub const FLOAT: Tolerance = Tolerance {
    tie: 0.03,
    mean: 0.01,
    first: 0.02,
    other: 0.03,
};

/// Least share of places, ties left out, where host and reference choose the same token.
pub const SAME: f64 = 0.95;
/// Largest share of places that may be ties: more would make [`SAME`] say little.
pub const TIES: f64 = 0.15;
/// A wrong reference must differ at least so many times as much as the right one does from the
/// same host, and by [`Tolerance::other`]: otherwise the comparison with the right one could not
/// fail.
pub const WIDE: f64 = 3.0;

/// A context of the reference.
pub struct Reference {
    context: Context,
    tolerance: Tolerance,
}

/// Settings of a reference that follow the host's.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Fused attention.
    pub flash: FlashAttention,
    /// Type of cached keys and values.
    pub cache: CacheType,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flash: FlashAttention::Auto,
            cache: CacheType::F16,
        }
    }
}

impl Reference {
    /// A context of `model` with these sidecars.
    pub fn new(model: &Model, edits: &[(&Sidecar, f32)], settings: Settings) -> Result<Self> {
        let params = ContextParams {
            n_ctx: 1024,
            n_threads: 1,
            flash_attention: settings.flash,
            type_k: settings.cache,
            type_v: settings.cache,
            ..ContextParams::default()
        };
        let mut context = Context::new(model, &params)?;
        context.set_edits(&model.compose(edits)?)?;
        Ok(Self {
            context,
            tolerance: QUANTISED,
        })
    }

    /// The same, to be compared with this tolerance.
    pub fn with_tolerance(self, tolerance: Tolerance) -> Self {
        Self { tolerance, ..self }
    }

    /// Log-probabilities `[places][n_vocab]` of the token in each place of `continuation`
    /// and of the one after it.
    pub fn log_probabilities(
        &mut self,
        prompt: &[i32],
        continuation: &[i32],
    ) -> Result<Vec<Vec<f64>>> {
        self.context.clear();
        let mut batch = Batch::new();
        let tokens = prompt.iter().chain(continuation);
        for (position, token) in tokens.enumerate() {
            batch.push(*token, position, 0, position + 1 >= prompt.len());
        }
        self.context.decode(&batch)?;
        let rows =
            (prompt.len() - 1..batch.len()).map(|i| log_softmax(self.context.logits(i as i32)));
        Ok(rows.collect())
    }

    /// Compares a host's answers with this reference.
    pub fn compare(&mut self, prompts: &[Vec<i32>], answers: &[Completion]) -> Result<Agreement> {
        let tolerance = self.tolerance;
        compare(prompts, answers, tolerance, |prompt, tokens| {
            self.log_probabilities(prompt, tokens)
        })
    }

    /// How much likelier the reference finds its first token than its second, at the least
    /// certain place of its own greedy continuation of `prompt` by `n` tokens.
    pub fn margin(&mut self, prompt: &[i32], n: usize) -> Result<f64> {
        let mut tokens: Vec<i32> = Vec::new();
        let mut margin = f64::INFINITY;
        for _ in 0..n {
            let rows = self.log_probabilities(prompt, &tokens)?;
            let row = rows.last().context("a row")?;
            let best = argmax(row);
            let second = (0..row.len())
                .filter(|i| *i != best)
                .map(|i| row[i])
                .fold(f64::NEG_INFINITY, f64::max);
            margin = margin.min(row[best] - second);
            tokens.push(best as i32);
        }
        Ok(margin)
    }
}

/// Compares answers with the rows that `rows(prompt, continuation)` gives.
pub fn compare(
    prompts: &[Vec<i32>],
    answers: &[Completion],
    tolerance: Tolerance,
    mut rows: impl FnMut(&[i32], &[i32]) -> Result<Vec<Vec<f64>>>,
) -> Result<Agreement> {
    ensure!(prompts.len() == answers.len(), "an answer is missing");
    let mut result = Agreement {
        places: 0,
        same: 0,
        ties: 0,
        mean: 0.0,
        first: 0.0,
        tolerance,
    };
    let (mut sum, mut values) = (0.0, 0usize);
    for (prompt, answer) in prompts.iter().zip(answers) {
        ensure!(!answer.tokens.is_empty(), "an answer is empty");
        ensure!(
            answer.top.len() >= answer.tokens.len(),
            "log-probabilities are missing"
        );
        let rows = rows(prompt, &answer.tokens)?;
        for (place, (token, top)) in answer.tokens.iter().zip(&answer.top).enumerate() {
            let row = &rows[place];
            let best = argmax(row);
            result.places += 1;
            if *token as usize == best {
                result.same += 1;
            } else if row[best] - row[*token as usize] < tolerance.tie {
                result.ties += 1;
            }
            let differences = top
                .iter()
                .map(|(id, logprob)| (row[*id as usize] - logprob).abs());
            let place_sum: f64 = differences.sum();
            if place == 0 {
                result.first = result.first.max(place_sum / top.len() as f64);
            }
            sum += place_sum;
            values += top.len();
        }
    }
    result.mean = sum / values as f64;
    Ok(result)
}

/// How a host's answers compare with a reference.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// Tokens compared.
    pub places: usize,
    /// Of them, those that the reference chooses too.
    pub same: usize,
    /// Those that the reference finds about as likely as its own choice, see [`Tolerance::tie`].
    pub ties: usize,
    /// Mean difference of log-probabilities.
    pub mean: f64,
    /// Largest mean difference at a prompt's first token.
    pub first: f64,
    tolerance: Tolerance,
}

impl Agreement {
    /// That the host computed what the reference did.
    pub fn ensure_same(&self) -> Result<()> {
        let decided = self.places - self.ties;
        ensure!(
            self.same as f64 >= SAME * decided as f64,
            "other tokens than llama-jola's: {self}"
        );
        // Of a few places one may be a tie, but not all.
        let places = self.places as f64;
        let ties = (TIES * places).max(1.0).min(places / 2.0);
        ensure!(self.ties as f64 <= ties, "too many ties: {self}");
        let Tolerance { mean, first, .. } = self.tolerance;
        ensure!(self.mean <= mean, "mean difference above {mean}: {self}");
        ensure!(
            self.first <= first,
            "difference at the first token above {first}: {self}"
        );
        Ok(())
    }

    /// That the host computed something else than this reference, by a wide margin, where
    /// `right` is how the host's answers compare with the reference that they should follow.
    pub fn ensure_other_than(&self, right: &Self) -> Result<()> {
        ensure!(
            self.mean >= self.tolerance.other.max(WIDE * right.mean),
            "no difference from the wrong reference: {self}, from the right one: {right}"
        );
        Ok(())
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} tokens, {} ties, Δ {:.3} (first {:.3})",
            self.same, self.places, self.ties, self.mean, self.first
        )
    }
}

/// Index of the largest value.
pub fn argmax(row: &[f64]) -> usize {
    (0..row.len())
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
        .unwrap_or(0)
}

/// Logarithm of the softmax of `logits`.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = logits.iter().map(|logit| f64::from(logit - max));
    let log_sum = shifted.clone().map(f64::exp).sum::<f64>().ln();
    shifted.map(|value| value - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(token: i32, logprob: f64) -> Completion {
        Completion {
            tokens: vec![token],
            top: vec![vec![(token, logprob)]],
            cached: 0,
        }
    }

    fn against(row: &[f64], answer: Completion) -> Agreement {
        compare(&[vec![1]], &[answer], QUANTISED, |_, _| {
            Ok(vec![row.to_vec()])
        })
        .unwrap()
    }

    #[test]
    fn a_comparison_passes_and_fails() {
        let row = [-0.1, -3.0, -5.0];
        against(&row, answer(0, -0.1)).ensure_same().unwrap();
        // Another token, another probability.
        assert!(against(&row, answer(1, -3.0)).ensure_same().is_err());
        assert!(against(&row, answer(0, -0.9)).ensure_same().is_err());
        // What is right differs by 0.1, what is wrong by 0.8 or by 0.2: within the margin.
        let right = against(&row, answer(0, -0.2));
        let wrong = |logprob| against(&row, answer(0, logprob)).ensure_other_than(&right);
        wrong(-0.9).unwrap();
        assert!(wrong(-0.3).is_err());
        // Nothing but a right answer: no wrong reference either.
        let exact = against(&row, answer(0, -0.1));
        assert!(right.ensure_other_than(&exact).is_err());
    }

    #[test]
    fn ties_alone_do_not_pass() {
        let tie = against(&[-0.70, -0.69], answer(0, -0.70));
        assert_eq!((tie.places, tie.same, tie.ties), (1, 0, 1));
        assert!(tie.ensure_same().is_err());
    }

    #[test]
    fn of_few_places_one_may_be_a_tie() {
        let of_six = |ties| Agreement {
            places: 6,
            same: 6 - ties,
            ties,
            ..against(&[-0.1, -3.0, -5.0], answer(0, -0.1))
        };
        of_six(1).ensure_same().unwrap();
        assert!(of_six(2).ensure_same().is_err());
    }

    #[test]
    fn probabilities_sum_to_one() {
        let sum: f64 = log_softmax(&[1.0, 2.0, -50.0, 3.5])
            .into_iter()
            .map(f64::exp)
            .sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }
}
