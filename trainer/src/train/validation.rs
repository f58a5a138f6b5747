//! How well a result does on rows that it was not trained on, and which result is better.

use serde::{Deserialize, Serialize};
use tch::{no_grad, Reduction, Tensor};

use crate::data::CachedRows;
use crate::model::{passes, LayerChange, Model};

/// Loss and accuracy on held-out rows, with deterministic gates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Mean cross-entropy per response token.
    pub loss: f64,
    /// Share of rows whose every response token is the most likely one: what greedy
    /// decoding would get exactly right.
    pub exact: f64,
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

/// Loss and exact matches of `rows` under `changes`; there must be some rows.
pub fn evaluate(model: &Model, changes: &[LayerChange], rows: &CachedRows) -> Validation {
    let (mut loss, mut targets, mut exact) = (0.0, 0, 0);
    let sequences = rows.sequences();
    for pass in passes(sequences) {
        let batch = rows.pack(&pass.clone().collect::<Vec<_>>(), model.device());
        let (sum, hits) = no_grad(|| {
            let logits = model.forward(&batch, changes);
            let sum = logits.cross_entropy_loss::<Tensor>(
                &batch.targets,
                None,
                Reduction::Sum,
                -100,
                0.0,
            );
            (
                sum.double_value(&[]),
                logits.argmax(-1, false).eq_tensor(&batch.targets),
            )
        });
        loss += sum;
        targets += batch.n_rows();
        let hits = Vec::<bool>::try_from(hits).expect("one bool per target");
        let mut hits = hits.as_slice();
        for sequence in &sequences[pass] {
            let (own, others) = hits.split_at(sequence.n_targets());
            exact += usize::from(own.iter().all(|&hit| hit));
            hits = others;
        }
    }
    Validation {
        loss: loss / targets as f64,
        exact: exact as f64 / sequences.len() as f64,
    }
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
}
