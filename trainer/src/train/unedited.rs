//! What the model does on the validation rows without any edit: what a run has to beat.

use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::measured::Measured;
use super::validation::StageResult;
use crate::data::CachedRows;
use crate::model::{LayerChange, Model};

/// A loss this close to that of guessing is no better.
const GUESSING: f64 = 0.95;

/// The unedited model on the validation rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unedited {
    /// What it measured.
    pub result: StageResult,
    /// Loss of a response token for someone who guesses by how often each answer is right, where
    /// rows choose between a few.
    pub guessing: Option<f64>,
}

/// How a trained edit stands against the unedited model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is better.
    Better,
    /// It is better only because it words answers as they are wanted: it picks them no better
    /// than by how often each is right.
    Guesses,
    /// It is no better.
    NoBetter,
}

impl Unedited {
    /// Measures the model on `rows`, of which there must be some.
    pub(super) fn measure(model: &Model, rows: &CachedRows, answers: Option<&Answers>) -> Unedited {
        let none = LayerChange::none(model.config.n_layer);
        let Measured { result, scores, .. } = Measured::new(model, &none, rows, answers);
        let sequences = rows.sequences();
        let n_targets: usize = sequences.iter().map(|row| row.n_targets()).sum();
        let guessing = answers.and_then(|answers| answers.guessing(sequences));
        let per_token = scores.losses.len() as f64 / n_targets as f64;
        Unedited {
            result,
            guessing: guessing.map(|loss| loss * per_token),
        }
    }

    /// How a result on the same `n_rows` rows stands against it. It must not pick answers worse
    /// by more than one standard error, nor be worse in what validations compare.
    pub fn verdict(&self, result: &StageResult, n_rows: usize) -> Verdict {
        let own = &self.result;
        let chooses_worse = own
            .choice
            .zip(result.choice)
            .is_some_and(|(own, edited)| edited < own - choice_error(own, n_rows));
        if chooses_worse || !result.validation.is_better(&own.validation, n_rows) {
            return Verdict::NoBetter;
        }
        match self.guessing {
            Some(guessing) if result.validation.loss > GUESSING * guessing => Verdict::Guesses,
            _ => Verdict::Better,
        }
    }
}

/// Standard error of the difference of two shares of right answers, on `n_rows` rows each, of
/// which one is `share`. As if there were one right and one wrong row more: a few rows that are
/// all right are no certainty.
pub(super) fn choice_error(share: f64, n_rows: usize) -> f64 {
    let n = n_rows as f64;
    let share = (share * n + 1.0) / (n + 2.0);
    (2.0 * share * (1.0 - share) / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Validation;

    fn result(loss: f64, exact: f64, choice: Option<f64>) -> StageResult {
        StageResult {
            validation: Validation { loss, exact },
            choice,
        }
    }

    #[test]
    fn an_edit_must_beat_loss_and_choice() {
        let unedited = Unedited {
            result: result(2.0, 0.0, Some(0.58)),
            guessing: Some(0.23),
        };
        let verdict = |loss, exact, choice| unedited.verdict(&result(loss, exact, choice), 100);
        assert_eq!(verdict(0.1, 0.8, Some(0.8)), Verdict::Better);
        // Worded right, and no longer known.
        assert_eq!(verdict(0.23, 0.31, Some(0.31)), Verdict::NoBetter);
        assert_eq!(verdict(0.225, 0.6, Some(0.6)), Verdict::Guesses);
        assert_eq!(verdict(2.5, 0.0, Some(0.6)), Verdict::NoBetter);
        let free = Unedited {
            result: result(2.0, 0.0, None),
            guessing: None,
        };
        assert_eq!(free.verdict(&result(1.9, 0.0, None), 100), Verdict::Better);
        assert_eq!(
            free.verdict(&result(2.1, 0.0, None), 100),
            Verdict::NoBetter
        );
    }
}
