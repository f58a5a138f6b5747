//! Scoring a model, with edits or without, on rows of a data file.
//!
//! A [`Task`] holds the rows as tokens and says what context they need; [`Task::run`] scores
//! the model in it, [`compare`] without and with edits. `docs/evaluate.md` says what each
//! metric is. Every metric gives each row a few numbers; the score is computed from their
//! sums over rows. That makes one bootstrap fit all.

pub mod bleu;
mod compare;
mod generated;
#[cfg(test)]
mod golden;
mod likelihood;
pub mod rouge;
mod scoring;
mod task;

use std::time::Instant;

use serde::Serialize;

pub use compare::{compare, Comparison, Test};
pub use likelihood::{log_likelihoods, log_softmax, Question};
pub use task::{Choices, Item, Task};

use crate::generate::EditedTokens;
use crate::stats::{bootstrap, wilson};

/// How an answer is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The greedy answer is an accepted text, and the model ends it there.
    Exact,
    /// The first of the choices that the greedy answer names is an accepted text.
    Match,
    /// Of the choices, an accepted text is the likeliest.
    Choice,
    /// Corpus BLEU of the greedy answers, 0 to 100.
    Bleu,
    /// Mean ROUGE-L F-measure of the greedy answers, 0 to 1.
    RougeL,
    /// exp of the mean negative log-likelihood of the response's tokens.
    Perplexity,
}

impl Metric {
    /// Whether every row is simply right or wrong.
    pub fn is_accuracy(self) -> bool {
        matches!(self, Self::Exact | Self::Match | Self::Choice)
    }

    /// Whether the model writes its answers.
    fn generates(self) -> bool {
        !matches!(self, Self::Choice | Self::Perplexity)
    }

    /// The score from the sums of the rows' numbers.
    fn score(self, sums: &[f64], n: usize) -> f64 {
        match self {
            Self::Bleu => sums.try_into().map_or(f64::NAN, bleu::score),
            Self::Perplexity => (sums[0] / sums[1]).exp(),
            _ => sums[0] / n as f64,
        }
    }
}

/// How to score.
#[derive(Clone, Debug)]
pub struct Params {
    /// What an answer is measured by.
    pub metric: Metric,
    /// Most tokens of an answer that is generated.
    pub n_predict: usize,
    /// Divide a choice's log-likelihood by its number of tokens.
    pub per_token: bool,
    /// Answers that are generated at once.
    pub parallel: u32,
    /// Which tokens the edits act on; a choice's or a response's count as generated.
    pub edited: EditedTokens,
}

/// What the model said to one row.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// The row's line.
    pub line: usize,
    /// The model's answer; none for perplexity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The accepted texts.
    pub accepted: Vec<String>,
    /// Whether the answer is accepted, for metrics that are accuracies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct: Option<bool>,
    /// The row's own score, for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// What the score is computed from.
    #[serde(skip)]
    numbers: Vec<f64>,
}

impl Prediction {
    fn new(item: &Item, answer: Option<&str>) -> Self {
        Self {
            line: item.line,
            answer: answer.map(str::to_owned),
            accepted: item.accepted.clone(),
            correct: None,
            score: None,
            numbers: Vec::new(),
        }
    }

    /// Right if `answer`, without white space around it, is an accepted text.
    fn accuracy(item: &Item, answer: &str) -> Self {
        let correct = item
            .accepted
            .iter()
            .any(|text| text.trim() == answer.trim());
        Self {
            correct: Some(correct),
            numbers: vec![f64::from(u8::from(correct))],
            ..Self::new(item, Some(answer.trim()))
        }
    }

    /// Wrong in any case unless `more` holds as well.
    fn and(self, more: bool) -> Self {
        let correct = self.correct == Some(true) && more;
        Self {
            correct: Some(correct),
            numbers: vec![f64::from(u8::from(correct))],
            ..self
        }
    }

    /// `surprise` is the negative log-likelihood of a response of `tokens` tokens.
    fn perplexity(item: &Item, surprise: f64, tokens: usize) -> Self {
        Self {
            score: Some((surprise / tokens as f64).exp()),
            numbers: vec![surprise, tokens as f64],
            ..Self::new(item, None)
        }
    }
}

/// The score of a model on a set of rows.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured.
    pub metric: Metric,
    /// How many rows were scored.
    pub n: usize,
    /// Rows answered with an accepted text, for metrics that are accuracies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct: Option<usize>,
    /// correct / n
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// The score: the accuracy, BLEU, ROUGE-L or perplexity.
    pub score: f64,
    /// 95 % interval of the score: Wilson's for accuracies, else by bootstrap.
    pub ci95: [f64; 2],
    /// How long it took on the clock.
    pub seconds: f64,
    /// Row by row, in the order of the file.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
}

impl Report {
    fn new(metric: Metric, predictions: Vec<Prediction>, start: Instant) -> Self {
        let n = predictions.len();
        let all: Vec<usize> = (0..n).collect();
        let score = score(metric, &predictions, &all);
        let correct = metric.is_accuracy().then(|| {
            predictions
                .iter()
                .filter(|p| p.correct == Some(true))
                .count()
        });
        Self {
            metric,
            n,
            correct,
            accuracy: correct.map(|_| score),
            score,
            ci95: match correct {
                Some(correct) => wilson(correct, n),
                None => bootstrap(n, |rows| self::score(metric, &predictions, rows)),
            },
            seconds: start.elapsed().as_secs_f64(),
            predictions,
        }
    }
}

/// The score of some of the rows, each as often as it is listed.
fn score(metric: Metric, predictions: &[Prediction], rows: &[usize]) -> f64 {
    let width = predictions.first().map_or(0, |p| p.numbers.len());
    let mut sums = vec![0.0; width];
    for &row in rows {
        let numbers = &predictions[row].numbers;
        sums.iter_mut().zip(numbers).for_each(|(sum, x)| *sum += x);
    }
    metric.score(&sums, rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(accepted: &[&str]) -> Item {
        Item {
            prompt: vec![1],
            response: vec![vec![2]],
            accepted: accepted.iter().map(|s| s.to_string()).collect(),
            lead: String::new(),
            choices: Default::default(),
            line: 1,
        }
    }

    #[test]
    fn answers_match_without_surrounding_white_space() {
        let right =
            |accepted: &[&str], answer| Prediction::accuracy(&row(accepted), answer).correct;
        assert_eq!(right(&[" billing"], "billing "), Some(true));
        assert_eq!(right(&["a", "b"], "b"), Some(true));
        assert_eq!(right(&["billing"], "billing."), Some(false));
    }

    /// Long responses weigh more: the mean is over tokens, not over rows.
    #[test]
    fn perplexity_is_per_token() {
        let rows = [(3.0, 1), (9.0, 9)];
        let predictions =
            rows.map(|(nll, tokens)| Prediction::perplexity(&row(&["x"]), nll, tokens));
        let report = Report::new(Metric::Perplexity, predictions.to_vec(), Instant::now());
        assert!((report.score - 1.2f64.exp()).abs() < 1e-12, "{report:?}");
        assert_eq!(report.correct, None);
        let [low, high] = report.ci95;
        assert!(low < report.score && report.score < high);
    }
}
