//! What rows measure under one edit, as a whole and row by row.

use super::answers::Answers;
use super::validation::{evaluate, share, RowScores, StageResult};
use crate::data::CachedRows;
use crate::model::{LayerChange, Model};

/// What some rows measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// As a whole.
    pub result: StageResult,
    /// Row by row.
    pub scores: RowScores,
    /// Of each row, whether its answer is the likeliest, where rows choose between a few.
    pub chosen: Option<Vec<bool>>,
}

impl Measured {
    /// Measures `rows`, of which there must be some, under `changes`.
    pub fn new(
        model: &Model,
        changes: &[LayerChange],
        rows: &CachedRows,
        answers: Option<&Answers>,
    ) -> Measured {
        let (validation, scores) = evaluate(model, changes, rows);
        let chosen = answers.and_then(|answers| answers.choice(model, changes, rows, &scores));
        Measured {
            result: StageResult {
                validation,
                choice: chosen.as_deref().map(share),
            },
            scores,
            chosen,
        }
    }
}
