//! A run whose rate proves too high starts over at the next lower one.
//!
//! Trials are short, and a whole run may not bear what they do: low-rank factors that a trial of 36
//! steps had liked at 0.01 had left all sense after 120 (`research/recipe.md`). The rest of such a
//! run would be wasted, and its result useless.

use std::mem;
use std::rc::Rc;

use super::observer::Observer;
use super::rate_search::{lower_rate, Trial};
use super::state::Counters;
use super::step_record::Event;
use super::trainer::Trainer;
use super::validation::RowScores;
use crate::Error;

/// A validation that is worse than a trial's by more standard errors than this is no chance.
const FAR: f64 = 3.0;
/// A loss below so many times the trial's is no reason to start over, however sure it is: what
/// cannot be learned gets a little worse in every step.
const MUCH: f64 = 1.25;

/// Why the steps of a run ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its rate is too high, and this is the next lower one.
    TooHigh(f64),
    /// It cannot go on.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl Trainer<'_> {
    /// Whether what the validation rows measured says that the rate is too high: at the first
    /// validation of a run whose rate was found, they do far worse than in the best trial, which
    /// had a fraction of its steps. Where there is a lower rate, this is it. In a trial all gates
    /// are open: what a run that closed some has lost by it says nothing of its rate.
    pub(super) fn lower_if_too_high(&self, scores: &RowScores) -> Option<f64> {
        let Counters { best, stages, .. } = &self.counters;
        let closed = self.settings.open_share(self.plan.stages[0].level) < 1.0;
        if best.is_some() || !stages.is_empty() || closed {
            return None;
        }
        let lower = self.lower()?;
        let trial = &self.best_trial()?.scores;
        let rows = scores.first(trial.losses.len());
        let [own, least] = [&rows, trial].map(|scores| scores.losses.iter().sum::<f64>());
        (own > MUCH * least && rows.worse_than(trial, FAR)).then_some(lower)
    }

    fn best_trial(&self) -> Option<&Trial> {
        let Counters {
            unedited, trials, ..
        } = &self.counters;
        let badness = |trial: &&Trial| trial.badness(*unedited);
        trials
            .iter()
            .min_by(|a, b| badness(a).total_cmp(&badness(b)))
    }

    /// The rate below that of the run; `None` where there is none or the user gave the rate.
    fn lower(&self) -> Option<f64> {
        let rate = self.counters.rate?;
        lower_rate(&self.settings.method, rate)
    }

    /// Puts the run back to its first step, at the next lower rate, which is returned.
    ///
    /// # Errors
    /// What stopped the run, where no lower rate can mend it.
    pub(super) fn start_over(
        &mut self,
        stop: Stop,
        observer: &mut dyn Observer,
    ) -> Result<f64, Error> {
        let rate = match stop {
            Stop::TooHigh(lower) => lower,
            Stop::Failed(error @ Error::Diverged { .. }) => self.lower().ok_or(error)?,
            Stop::Failed(error) => return Err(error),
        };
        let rows = [self.train.sequences(), self.valid.sequences()];
        let calibration = Rc::clone(&self.calibration);
        let fresh = Trainer::around(self.model, self.settings, rows, calibration)?;
        let before = mem::replace(self, fresh).counters;
        self.counters = Counters {
            unedited: before.unedited,
            trials: before.trials,
            rate: Some(rate),
            // What was spent stays spent.
            tokens: before.tokens,
            training_seconds: before.training_seconds,
            ..Counters::default()
        };
        observer.event(&Event::Restart { rate });
        Ok(rate)
    }
}
