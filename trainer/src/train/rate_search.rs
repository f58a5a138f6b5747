//! Finds the learning rate that fits a base and its data: short trials, and the one whose
//! validation loss is lowest, or the next lower rate if it is no worse.
//!
//! The best rate differs tenfold between bases, and no formula was found that tells it. A trial
//! trains without closing any gate, along a whole schedule, since a rate that is held only
//! looks worse than it is. Trials begin in the middle of the ladder and go on to the side where
//! it gets better, as long as it does.
//!
//! Of two rates that do equally well the lower one is right: a run has many times a trial's steps
//! to get as far, and what it learns stays smaller, so that it changes less of all else. It is
//! right, too, where it has learned most of the task in its trial already, and it is not where no
//! trial has learned anything. The best rate of low-rank factors falls as steps grow, for a change
//! is the product of two: there the next lower one always serves (`research/recipe.md`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::recipe::Recipe;
use super::settings::{Rate, Settings};
use super::unedited::{choice_error, Unedited};
use super::validation::{exceeds, RowScores};
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
/// A trial whose loss is at most this part of what guessing costs has learned most of the task.
const LEARNED: f64 = 0.5;

/// What a trial came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// What it measured of each row that judged it; none where a loss was no number.
    #[serde(flatten)]
    pub scores: RowScores,
}

impl Trial {
    /// What is to be lowest: the loss, but whatever picks answers worse than the unedited model
    /// comes after what does not, however well it words them.
    pub(super) fn badness(&self, unedited: Option<Unedited>) -> f64 {
        let before = unedited.and_then(|own| own.result.choice);
        let lost = before.zip(self.choice).map_or(0.0, |(before, after)| {
            (before - choice_error(before, JUDGES) - after).max(0.0)
        });
        // A loss is far below this for each row that is lost.
        self.loss.map_or(f64::INFINITY, |loss| loss + lost * 1e4)
    }
}

/// What the trials came to.
pub(super) struct Found {
    /// The rate that serves.
    pub rate: f64,
    /// That of the best trial.
    best: f64,
    /// Where they differ.
    why: Option<&'static str>,
    pub trials: Vec<Trial>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Found {
            rate, best, why, ..
        } = self;
        let count = self.trials.len();
        let tokens: usize = self.trials.iter().map(|trial| trial.tokens).sum();
        let of_all = format!("the best of {count} trials of {tokens} tokens in all");
        match why {
            None => write!(f, "learning rate {rate}: {of_all}"),
            Some(why) => write!(
                f,
                "learning rate {rate}: the next below {best}, {of_all}: {why}"
            ),
        }
    }
}

/// The rates that suit a method, ascending.
fn ladder(method: &Method) -> [f64; 7] {
    match method {
        Method::Lora(_) => LORA,
        _ => EDITS,
    }
}

/// The next lower rate that suits a method.
pub(super) fn lower_rate(method: &Method, rate: f64) -> Option<f64> {
    let mut descending = ladder(method).into_iter().rev();
    descending.find(|lower| *lower < rate)
}

/// Steps of a trial, for a run of so many.
pub(super) fn trial_steps(steps: usize) -> usize {
    ((steps as f64 * SHARE).ceil() as usize)
        .clamp(STEPS[0], STEPS[1])
        .min(steps)
}

/// Tries rates until the best is found. `unedited` is what there is to beat; `trials` are those
/// that are done already, and `attempt` makes a new one at a rate.
pub(super) fn find_rate<E>(
    method: &Method,
    unedited: Option<Unedited>,
    mut trials: Vec<Trial>,
    mut attempt: impl FnMut(f64, &[Trial]) -> Result<Trial, E>,
) -> Result<Found, E> {
    let ladder = ladder(method);
    let guessing = unedited.and_then(|own| own.guessing);
    let mut next = 0;
    let best = climb(ladder.len(), START, |index| {
        if next == trials.len() {
            trials.push(attempt(ladder[index], &trials)?);
        }
        next += 1;
        Ok(trials[next - 1].badness(unedited))
    })?;
    let lower = ladder[best.saturating_sub(1)];
    let best = ladder[best];
    let of_guessing = |rate| {
        let loss = trial_at(rate, &trials).and_then(|trial| trial.loss);
        loss.zip(guessing).map(|(loss, guessing)| loss / guessing)
    };
    let why = match method {
        _ if lower == best => None,
        Method::Lora(_) => Some("a whole run does not bear what a trial does"),
        _ if of_guessing(best).is_some_and(|share| share >= 1.0) => None,
        _ if does_as_well(lower, best, &trials) => {
            Some("it does no worse by more than one standard error")
        }
        _ if of_guessing(lower).is_some_and(|share| share <= LEARNED) => {
            Some("it has learned most of the task already")
        }
        _ => None,
    };
    Ok(Found {
        rate: why.map_or(best, |_| lower),
        best,
        why,
        trials,
    })
}

fn trial_at(rate: f64, trials: &[Trial]) -> Option<&Trial> {
    trials.iter().find(|trial| trial.rate == rate)
}

/// Whether the rows of a trial at a `lower` rate do no worse than those of the `best`, by more than
/// one standard error of the difference.
fn does_as_well(lower: f64, best: f64, trials: &[Trial]) -> bool {
    let rows = |rate| trial_at(rate, trials).map_or(&[][..], |trial| &trial.scores.losses);
    let (lower, best) = (rows(lower), rows(best));
    let pairs = lower.iter().zip(best);
    let risen: Vec<f64> = pairs.map(|(lower, best)| lower - best).collect();
    !risen.is_empty() && risen.len() == best.len() && !exceeds(&risen, 1.0)
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
    use crate::method::LoraConfig;
    use crate::train::validation::{StageResult, Validation};

    fn unedited(choice: Option<f64>, guessing: Option<f64>) -> Unedited {
        let validation = Validation {
            loss: 9.0,
            exact: 0.0,
        };
        Unedited {
            result: StageResult { validation, choice },
            guessing,
        }
    }

    #[test]
    fn what_forgets_the_answers_comes_last() {
        let unedited = unedited(Some(0.6), None);
        let badness = |loss, choice| {
            let trial = Trial {
                rate: 0.1,
                loss,
                choice,
                tokens: 1,
                scores: RowScores::default(),
            };
            trial.badness(Some(unedited))
        };
        let kept = badness(Some(0.5), Some(0.58));
        assert_eq!(kept, 0.5);
        assert!(badness(Some(0.4), Some(0.25)) > badness(Some(0.45), Some(0.4)));
        assert!(badness(Some(0.4), Some(0.4)) > kept);
        assert_eq!(badness(None, None), f64::INFINITY);
        assert_eq!(badness(Some(2.0), None), 2.0);
    }

    fn scores(losses: &[f64]) -> RowScores {
        RowScores {
            losses: losses.to_vec(),
            exact: vec![false; losses.len()],
        }
    }

    #[test]
    fn of_rates_that_do_equally_well_the_next_lower_serves() {
        let trial = |rate: f64, rows: &[f64]| Trial {
            rate,
            loss: Some(rows.iter().sum()),
            choice: None,
            tokens: 1,
            scores: scores(rows),
        };
        let best = trial(0.1, &[0.1, 0.5, 0.2, 0.9]);
        let even = trial(0.03, &[0.2, 0.4, 0.3, 0.8]);
        let worse = trial(0.03, &[0.5, 0.7, 0.6, 1.4]);
        let diverged = trial(0.03, &[]);
        let lower = |trial: &Trial| {
            let trials = [trial.clone(), best.clone()];
            does_as_well(0.03, 0.1, &trials)
        };
        assert!(lower(&even));
        assert!(!lower(&worse));
        assert!(!lower(&diverged));
    }

    /// On the 0.5B's arc_easy all trials guess, and the lower rate learned less
    /// (`research/recipe.md`).
    #[test]
    fn the_lower_rate_serves_where_it_has_learned_most_and_not_where_none_has() {
        let attempt = |best: f64, lower: f64, chance: f64| {
            move |rate: f64, _: &[Trial]| {
                let loss = match rate {
                    0.1 => best,
                    0.03 => lower,
                    _ => 9.0,
                };
                let chance = if rate == 0.03 { chance } else { 0.0 };
                Ok::<_, ()>(Trial {
                    rate,
                    loss: Some(loss),
                    choice: None,
                    tokens: 1,
                    scores: scores(&[loss + chance, loss - chance].repeat(8)),
                })
            }
        };
        let rate = |guessing, best, lower, chance| {
            let unedited = Some(unedited(None, guessing));
            let attempt = attempt(best, lower, chance);
            let found = find_rate(&Method::Jola, unedited, Vec::new(), attempt);
            found.unwrap().rate
        };
        assert_eq!(rate(Some(2.0), 0.8, 1.0, 0.0), 0.03);
        assert_eq!(rate(Some(2.0), 0.8, 1.1, 0.0), 0.1);
        assert_eq!(rate(None, 0.8, 1.0, 0.0), 0.1);
        // It does as well, by chance.
        assert_eq!(rate(Some(2.0), 1.6, 1.7, 3.0), 0.03);
        assert_eq!(rate(None, 1.6, 1.7, 3.0), 0.03);
        assert_eq!(rate(Some(1.5), 1.6, 1.7, 3.0), 0.1);
    }

    #[test]
    fn low_rank_factors_are_trained_at_the_rate_below_the_best_trial() {
        let lora = Method::Lora(LoraConfig {
            rank: 8,
            alpha: 16.0,
            targets: vec!["attn_q".to_owned()],
        });
        let attempt = |rate: f64, _: &[Trial]| {
            let loss = (rate.log10() + 2.0).abs();
            Ok::<_, ()>(Trial {
                rate,
                loss: Some(loss),
                choice: None,
                tokens: 1,
                scores: scores(&[loss; 9]),
            })
        };
        let found = find_rate(&lora, None, Vec::new(), attempt).unwrap();
        assert_eq!((found.rate, found.best), (3e-3, 1e-2));
        let found = find_rate(&Method::Jola, None, Vec::new(), attempt).unwrap();
        assert_eq!((found.rate, found.best), (1e-2, 1e-2));
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
