//! How well a result does on rows that it was not trained on, and which result is better.

use std::fmt;

use serde::{Deserialize, Serialize};
use tch::{no_grad, Kind, Reduction, Tensor};

use crate::data::CachedRows;
use crate::model::{passes, Batch, LayerChange, Model};
use crate::readings;

/// Loss and accuracy on held-out rows, with deterministic gates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Mean cross-entropy per response token.
    pub loss: f64,
    /// Share of rows whose every response token is the most likely one: what greedy
    /// decoding would get exactly right.
    pub exact: f64,
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let exact = self.exact * 100.0;
        write!(f, "loss {:.4}, {exact:.1} % of rows exact", self.loss)
    }
}

impl Validation {
    /// Shares of exact rows below this are luck, as with free text.
    const FEW: f64 = 0.05;
    /// One row more or less is luck too.
    const TELLING_ROWS: f64 = 2.0;

    /// Whether it is better than `other` on the same `n_rows` rows: by the rows that are exact,
    /// where they are more than a few and two or more tell the two apart, else by the loss.
    /// With so few training rows the loss grows early, of tokens that the model gets wrong with
    /// confidence, while it still learns to get more rows right (`research/runs/2026-11-26-models`).
    ///
    /// This is no order of all validations: the best of a run may give up a row at a time, each
    /// for a lower loss.
    pub fn is_better(&self, other: &Validation, n_rows: usize) -> bool {
        let rank = |v: &Validation| if v.exact < Self::FEW { 0.0 } else { v.exact };
        let gained = ((rank(self) - rank(other)) * n_rows as f64).round();
        if gained.abs() >= Self::TELLING_ROWS {
            gained > 0.0
        } else {
            self.loss < other.loss
        }
    }
}

/// What the best of one stage measured on the validation rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageResult {
    /// Loss and exact rows.
    pub validation: Validation,
    /// The share of rows whose answer is the likeliest, where rows choose between a few.
    pub choice: Option<f64>,
}

impl fmt::Display for StageResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.validation)?;
        match self.choice {
            Some(choice) => write!(f, ", {:.1} % chosen right", choice * 100.0),
            None => Ok(()),
        }
    }
}

/// A stage that is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Which of the run's targets its gates were closed to.
    pub level: usize,
    /// What its best measured; none without validation rows.
    pub result: Option<StageResult>,
}

/// What a validation measured of each row, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowScores {
    /// Cross-entropy summed over the row's response tokens.
    #[serde(default, rename = "rows")]
    pub losses: Vec<f64>,
    /// Whether every response token is the most likely one.
    #[serde(default)]
    pub exact: Vec<bool>,
}

impl RowScores {
    /// Of so many rows.
    pub(super) fn first(&self, n_rows: usize) -> RowScores {
        RowScores {
            losses: self.losses.iter().take(n_rows).copied().collect(),
            exact: self.exact.iter().take(n_rows).copied().collect(),
        }
    }

    /// Whether the rows do worse than the same rows in `best`, by more than so many standard
    /// errors of the mean difference: in how many are exact, and where hardly any are, in their
    /// loss, as in [`Validation::is_better`]. Of a hundred rows the error of a count is four or
    /// five, so a loss that is worse by twice as many errors tells too.
    pub fn worse_than(&self, best: &RowScores, errors: f64) -> bool {
        let telling = share(&best.exact) >= Validation::FEW;
        let pairs = self.losses.iter().zip(&best.losses);
        let risen: Vec<f64> = pairs.map(|(own, best)| own - best).collect();
        let pairs = self.exact.iter().zip(&best.exact);
        let lost = pairs.map(|(own, best)| f64::from(*best) - f64::from(*own));
        let lost: Vec<f64> = lost.collect();
        match telling {
            true => exceeds(&lost, errors) || exceeds(&risen, 2.0 * errors),
            false => exceeds(&risen, errors),
        }
    }
}

/// The share of flags that are set.
pub(super) fn share(flags: &[bool]) -> f64 {
    flags.iter().filter(|flag| **flag).count() as f64 / flags.len() as f64
}

/// Whether the mean of some numbers is above 0 by more than so many of its standard errors.
pub(super) fn exceeds(values: &[f64], errors: f64) -> bool {
    let (mean, error) = mean_with_error(values);
    // A single number that is not 0 has a mean of just one error.
    let rounding = 1.0 + 1e-9;
    mean > errors * error * rounding
}

/// The mean of some numbers, and its standard error.
fn mean_with_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|value| (value - mean).powi(2));
    (mean, (squares.sum::<f64>() / (n - 1.0).max(1.0) / n).sqrt())
}

/// Cross-entropy of each target of a batch, [R] float64, and whether it is the likeliest token,
/// [R]; logits of a few rows are there at a time.
pub(super) fn target_scores(
    model: &Model,
    batch: &Batch,
    changes: &[LayerChange],
) -> (Tensor, Tensor) {
    no_grad(|| {
        let x = model.residual(batch, changes);
        let head = model.head();
        let pieces = head.pieces(x.size()[0]).map(|rows| {
            let part = |tensor: &Tensor| tensor.narrow(0, rows.start, rows.end - rows.start);
            let logits = head.logits(&part(&x));
            let targets = part(&batch.targets).to_device(logits.device());
            let hits = logits.argmax(-1, false).eq_tensor(&targets);
            let losses =
                logits.cross_entropy_loss::<Tensor>(&targets, None, Reduction::None, -100, 0.0);
            (losses.to_kind(Kind::Double), hits)
        });
        let (losses, hits): (Vec<Tensor>, Vec<Tensor>) = pieces.unzip();
        (Tensor::cat(&losses, 0), Tensor::cat(&hits, 0))
    })
}

/// Loss and exact matches of `rows` under `changes`, as a whole and row by row; there must be
/// some rows.
pub fn evaluate(
    model: &Model,
    changes: &[LayerChange],
    rows: &CachedRows,
) -> (Validation, RowScores) {
    let mut scores = RowScores::default();
    let mut targets = 0;
    let sequences = rows.sequences();
    for pass in passes(sequences) {
        let batch = rows.pack(&pass.clone().collect::<Vec<_>>(), model.device());
        let (losses, hits) = target_scores(model, &batch, changes);
        targets += batch.n_rows();
        let losses = readings::numbers(&losses);
        let hits = readings::flags(&hits);
        let mut start = 0;
        for sequence in &sequences[pass] {
            let own = start..start + sequence.n_targets();
            start = own.end;
            scores.losses.push(losses[own.clone()].iter().sum());
            scores.exact.push(hits[own].iter().all(|&hit| hit));
        }
    }
    let validation = Validation {
        loss: scores.losses.iter().sum::<f64>() / targets as f64,
        exact: share(&scores.exact),
    };
    (validation, scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_exact_come_before_a_loss_that_confident_mistakes_raise() {
        let of = |loss, exact| Validation { loss, exact };
        let before = of(1.092, 0.19);
        assert!(of(1.169, 0.48).is_better(&before, 100));
        assert!(!before.is_better(&of(1.169, 0.48), 100));
        assert!(of(1.0, 0.19).is_better(&before, 100));
        assert!(!before.is_better(&before, 100));
        // Free text is hardly ever exact.
        assert!(of(2.0, 0.0).is_better(&of(2.1, 0.04), 100));
        assert!(!of(2.1, 0.04).is_better(&of(2.0, 0.0), 100));
        assert!(of(2.1, 0.05).is_better(&of(2.0, 0.04), 100));
    }

    /// As in the demo, where it cost three of 102 test rows.
    #[test]
    fn one_lucky_row_does_not_outweigh_a_far_lower_loss() {
        let of = |loss, rows: f64| Validation {
            loss,
            exact: rows / 48.0,
        };
        assert!(of(0.1132, 43.0).is_better(&of(0.1935, 44.0), 48));
        assert!(!of(0.1935, 44.0).is_better(&of(0.1132, 43.0), 48));
        assert!(of(0.1935, 45.0).is_better(&of(0.1132, 43.0), 48));
    }

    #[test]
    fn rows_are_worse_by_more_than_an_error_of_their_differences() {
        let scores = |losses: &[f64], exact: &[bool]| RowScores {
            losses: losses.to_vec(),
            exact: exact.to_vec(),
        };
        let none = [false; 4];
        let free = scores(&[0.1, 2.0, 0.3, 0.4], &none);
        assert!(!free.worse_than(&free, 1.0));
        // Of free text every row loses a little: a small difference, and a sure one.
        let all = scores(&[0.2, 2.1, 0.4, 0.5], &none);
        assert!(all.worse_than(&free, 1.0) && !free.worse_than(&all, 1.0));
        // One row loses much: one standard error of the mean.
        let one = scores(&[0.1, 1.9, 0.3, 1.4], &none);
        assert!(!one.worse_than(&free, 1.0));
        // Where rows are exact, they tell, and a loss that is surely higher.
        let best = scores(&[0.1, 2.0, 0.3, 0.4], &[true, false, true, true]);
        let unsure = scores(&[0.1, 2.1, 0.3, 0.6], &best.exact);
        assert!(!unsure.worse_than(&best, 1.0));
        assert!(scores(&unsure.losses, &none).worse_than(&scores(&best.losses, &none), 1.0));
        let all = scores(&all.losses, &best.exact);
        assert!(all.worse_than(&best, 1.0));
        // Equal losses, fewer exact.
        let exact = scores(&best.losses, &[false, false, false, true]);
        assert!(exact.worse_than(&best, 1.0));
    }

    /// On snips7 a path went on with more heads where one row of 100 was lost, or did not, by
    /// which row it was.
    #[test]
    fn rounding_does_not_make_one_lost_row_more_than_one_error() {
        for n_rows in [48, 100, 300] {
            let best = RowScores {
                losses: vec![0.0; n_rows],
                exact: vec![true; n_rows],
            };
            for lost in 0..n_rows {
                let mut scores = best.clone();
                scores.exact[lost] = false;
                assert!(!scores.worse_than(&best, 1.0), "row {lost} of {n_rows}");
            }
        }
    }
}
