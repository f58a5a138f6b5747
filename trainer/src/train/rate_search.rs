//! Finds the learning rate that fits a base and its data: short trials, and the one whose
//! validation loss is lowest.
//!
//! The best rate differs tenfold between bases, and no formula was found that tells it. A trial
//! trains without closing any gate, along a whole schedule, since a rate that is held only
//! looks worse than it is. Trials begin in the middle of the ladder and go on to the side where
//! it gets better, as long as it does.

use serde::{Deserialize, Serialize};

use super::recipe::Recipe;
use super::settings::{Rate, Settings};
use super::unedited::choice_error;
use crate::method::{ClosedShares, Method, Sparsity};
use crate::model::Sequence;

/// Rates of vectors in units of what they change.
const EDITS: [f64; 7] = [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0];
/// Rates of the factors of low-rank matrices.
const LORA: [f64; 7] = [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2];
/// Where the trials begin.
const START: usize = 3;
/// The share of the run's steps that a trial takes; fewer than the first of these steps tell
/// nothing, and more than the second are not needed.
const SHARE: f64 = 0.06;
const STEPS: [usize; 2] = [20, 60];
/// Rows that a trial is judged by, at most.
const JUDGES: usize = 64;

/// What a trial came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Learning rate at its peak.
    pub rate: f64,
    /// Validation loss at its end; `None` where a loss was no number.
    pub loss: Option<f64>,
    /// The share of rows whose answer is the likeliest, where rows choose between a few; not
    /// measured of a trial whose loss alone is too high.
    pub choice: Option<f64>,
    /// Tokens that it trained on.
    pub tokens: usize,
}

impl Trial {
    /// What is to be lowest: the loss, but whatever picks answers worse than the unedited model
    /// (`before`) comes after what does not, however well it words them.
    pub(super) fn badness(&self, before: Option<f64>) -> f64 {
        let lost = before.zip(self.choice).map_or(0.0, |(before, after)| {
            (before - choice_error(before, JUDGES) - after).max(0.0)
        });
        // A loss is far below this for each row that is lost.
        self.loss.map_or(f64::INFINITY, |loss| loss + lost * 1e4)
    }
}

/// The rates that suit a method, ascending.
fn ladder(method: &Method) -> [f64; 7] {
    match method {
        Method::Lora(_) => LORA,
        _ => EDITS,
    }
}

/// Steps of a trial, for a run of so many.
pub(super) fn trial_steps(steps: usize) -> usize {
    ((steps as f64 * SHARE).ceil() as usize)
        .clamp(STEPS[0], STEPS[1])
        .min(steps)
}

/// Tries rates until the best is found. The unedited model picks the share `before` of the
/// validation rows' answers right; `trials` are those that are done already, and `attempt` makes
/// a new one at a rate.
pub(super) fn find_rate<E>(
    method: &Method,
    before: Option<f64>,
    mut trials: Vec<Trial>,
    mut attempt: impl FnMut(f64, &[Trial]) -> Result<Trial, E>,
) -> Result<(f64, Vec<Trial>), E> {
    let ladder = ladder(method);
    let mut next = 0;
    let best = climb(ladder.len(), START, |index| {
        if next == trials.len() {
            trials.push(attempt(ladder[index], &trials)?);
        }
        next += 1;
        Ok(trials[next - 1].badness(before))
    })?;
    Ok((ladder[best], trials))
}

/// A trial at this rate, of a run of these settings: no gate is closed, and it is judged once.
pub(super) fn trial_settings(settings: &Settings, rate: f64) -> Settings {
    Settings {
        steps: trial_steps(settings.steps),
        sparsity: Sparsity::Target(ClosedShares::both(0.0)),
        lr: Rate::Fixed(rate),
        recipe: Recipe {
            learn: 0.0,
            prune: 0.0,
            validations: 1,
            best_by_loss: true,
            ..settings.recipe
        },
        ..settings.clone()
    }
}

/// The rows that judge trials. Without validation rows, those that are trained on tell what is
/// far too high or low.
pub(super) fn judges<'a>(train: &'a [Sequence], valid: &'a [Sequence]) -> &'a [Sequence] {
    let rows = if valid.is_empty() { train } else { valid };
    &rows[..rows.len().min(JUDGES)]
}

/// The place of the lowest value, of places below `count`, where values fall and then rise.
fn climb<E>(
    count: usize,
    start: usize,
    mut value: impl FnMut(usize) -> Result<f64, E>,
) -> Result<usize, E> {
    let (mut best, mut least) = (start, value(start)?);
    let mut found = false;
    for step in [-1isize, 1] {
        while let Some(next) = best.checked_add_signed(step).filter(|next| *next < count) {
            let new = value(next)?;
            if new >= least {
                break;
            }
            (best, least, found) = (next, new, true);
        }
        if found {
            break;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_forgets_the_answers_comes_last() {
        let badness = |loss, choice| {
            let trial = Trial {
                rate: 0.1,
                loss,
                choice,
                tokens: 1,
            };
            trial.badness(Some(0.6))
        };
        let kept = badness(Some(0.5), Some(0.58));
        assert_eq!(kept, 0.5);
        assert!(badness(Some(0.4), Some(0.25)) > badness(Some(0.45), Some(0.4)));
        assert!(badness(Some(0.4), Some(0.4)) > kept);
        assert_eq!(badness(None, None), f64::INFINITY);
        assert_eq!(badness(Some(2.0), None), 2.0);
    }

    fn found(values: [f64; 7]) -> (usize, usize) {
        let mut count = 0;
        let best = climb(7, START, |index| {
            count += 1;
            Ok::<_, ()>(values[index])
        });
        (best.unwrap(), count)
    }

    #[test]
    fn the_lowest_of_a_valley_is_found_with_few_trials() {
        assert_eq!(found([9., 5., 2., 1., 3., 4., 6.]), (3, 3));
        assert_eq!(found([9., 1., 2., 3., 4., 5., 6.]), (1, 4));
        assert_eq!(found([9., 8., 7., 6., 4., 2., 3.]), (5, 5));
        assert_eq!(found([1., 2., 3., 4., 5., 6., 7.]), (0, 4));
        let inf = f64::INFINITY;
        assert_eq!(found([1., 2., 3., inf, inf, inf, inf]), (0, 4));
    }
}
