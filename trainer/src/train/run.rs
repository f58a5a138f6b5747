//! The training loop: learn, prune, polish, stage by stage.

use std::time::Instant;

use super::choice::choose_heads;
use super::observer::Observer;
use super::restart::Stop;
use super::schedule::{Phase, Place};
use super::settings::Settings;
use super::state::Counters;
use super::step_record::ValidationRecord;
use super::streams::keep_streams;
use super::trainer::{Outcome, Trainer};
use super::validation::{evaluate, Validation};
use crate::method::Parameters;
use crate::Error;

/// Validations of each stage of a path: the fewest and the most.
const PATH_VALIDATIONS: (usize, usize) = (2, 4);
/// A path of 200 rows has four cycles of so many steps and more; shorter ones were not tried.
const SHORTEST_CYCLE: usize = 43;
/// Losses are looked at together after this many steps: each look waits for the device.
const LOOK_EVERY: usize = 16;

impl Trainer<'_> {
    /// Runs the steps that are left and returns the parameters of the candidate that serves.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss stops being a number.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<(Parameters, Outcome), Error> {
        self.measure_unedited(observer);
        let mut rate = self.rate(observer)?;
        while let Err(stop) = self.steps(rate, observer) {
            rate = self.start_over(stop, observer)?;
        }
        observer.finished(self.state());
        Ok(self.finish(rate))
    }

    /// Runs the steps that are left at this rate.
    fn steps(&mut self, rate: f64, observer: &mut dyn Observer) -> Result<(), Stop> {
        let steps = self.plan.steps();
        if self.counters.step == 0 && self.plan.choice(0) == 0 {
            self.choose_heads(0, observer);
        }
        if !self.choosing() {
            self.keep_streams(observer);
        }
        let mut ended = self.counters.ended;
        while self.counters.step < steps && !ended {
            let step = self.counters.step;
            let (begun, place) = (Instant::now(), self.plan.place(step));
            self.step(step, place, rate);
            if step + 1 == self.plan.choice(place.stage) {
                self.choose_heads(place.level, observer);
                self.keep_streams(observer);
            }
            self.unread.note_gates(self.parameters.open_gates());
            self.unread.add_time(begun.elapsed());
            let last = step + 1 == self.plan.end(place.stage);
            let validate = self.validates_after(step);
            if observer.due() || last || validate || self.unread.len() >= LOOK_EVERY {
                self.look(observer)?;
            }
            if self.ends_cycle(place) {
                self.mean.add(self.optim.values());
            }
            let stop = validate && self.validate(observer)?;
            if last || stop {
                ended = self.end_stage(place.stage, observer);
                self.counters.ended = ended;
            }
            if !ended && observer.checkpoint_due() {
                self.look(observer)?;
                self.candidate = Some(self.state());
            }
        }
        self.look(observer)?;
        Ok(())
    }

    /// Reads what the last steps left on the device.
    fn look(&mut self, observer: &mut dyn Observer) -> Result<(), Error> {
        let (records, time) = self.unread.read(&mut self.gates)?;
        self.counters.training_seconds += time.as_secs_f64();
        if let Some(state) = self.candidate.take_if(|_| !records.is_empty()) {
            observer.checkpoint(&state);
        }
        observer.steps(&records);
        Ok(())
    }

    /// Ends a stage's choice of heads.
    fn choose_heads(&mut self, level: usize, observer: &mut dyn Observer) {
        let target = self.settings.target(level);
        if let Some(edits) = self.parameters.edits_mut() {
            choose_heads(edits, target, observer);
        }
    }

    /// Keeps what the layers below all edits make of the rows, where that takes no more memory
    /// than was counted for those layers. Heads must have been chosen.
    fn keep_streams(&mut self, observer: &mut dyn Observer) {
        let changes = self.parameters.training_changes(None);
        let lowest = changes.iter().position(|change| !change.is_empty());
        if let Some(lowest @ 1..) = lowest {
            let rows = [&mut self.train, &mut self.valid];
            keep_streams(
                self.model,
                self.settings,
                &self.sampler,
                lowest,
                rows,
                observer,
            );
        }
    }

    /// Validations of a stage.
    fn validations(&self, stage: usize) -> usize {
        match self.cycles(stage) {
            1 => self.most_validations(stage),
            cycles => cycles,
        }
    }

    fn most_validations(&self, stage: usize) -> usize {
        match &self.plan.stages[..] {
            [_] => self.settings.recipe.validations,
            stages => {
                let n_trained = stages[stage].polish * self.settings.batch_size;
                path_validations(n_trained, self.valid.sequences().len())
            }
        }
    }

    /// In how many cycles the rate falls in the polish phase of a stage: as often as it is
    /// validated, but in a short phase less.
    pub(super) fn cycles(&self, stage: usize) -> usize {
        let most = match self.settings.cyclic() {
            true => self.plan.stages[stage].polish / SHORTEST_CYCLE,
            false => 1,
        };
        most.min(self.most_validations(stage)).max(1)
    }

    /// Whether a step is the last of a cycle, of several.
    fn ends_cycle(&self, place: Place) -> bool {
        let cycles = self.cycles(place.stage);
        let (done, span) = place.in_cycle(cycles);
        place.phase == Phase::Polish && cycles > 1 && done + 1 == span
    }

    /// Whether `step` is followed by a validation.
    fn validates_after(&self, step: usize) -> bool {
        let validations = self.validations(self.plan.place(step).stage);
        !self.valid.sequences().is_empty() && self.plan.validates_after(step, validations)
    }

    /// Validates, and keeps the best parameters: those that are trained, or the mean of what they
    /// were at the ends of cycles. Returns whether it is time to stop.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<bool, Stop> {
        if self.mean.is_empty() {
            return self.validate_as_they_stand(observer);
        }
        let trained = self.optim.values();
        self.parameters.set_values(self.mean.values());
        let stop = self.validate_as_they_stand(observer);
        self.parameters.set_values(&trained);
        stop
    }

    fn validate_as_they_stand(&mut self, observer: &mut dyn Observer) -> Result<bool, Stop> {
        let changes = self.parameters.final_changes();
        let (validation, scores) = evaluate(self.model, &changes, &self.valid);
        let Counters { step, best, .. } = self.counters;
        let Validation { loss, .. } = validation;
        if !loss.is_finite() {
            return Err(Error::Diverged { step, loss }.into());
        }
        let lower = self.lower_if_too_high(&scores);
        let n_rows = self.valid.sequences().len();
        let better = best.is_none_or(|best| match self.settings.recipe.best_by_loss {
            true => loss < best.loss,
            false => validation.is_better(&best, n_rows),
        });
        if better {
            self.counters.best = Some(validation);
            self.counters.stale = 0;
            self.best = self.optim.values();
            self.best_scores = scores;
        } else {
            self.counters.stale += 1;
        }
        observer.validated(&ValidationRecord {
            step,
            validation,
            best: better,
        });
        if let Some(lower) = lower {
            observer.log("far worse than a trial of a few steps: the learning rate is too high");
            return Err(Stop::TooHigh(lower));
        }
        let Settings { patience, .. } = *self.settings;
        let stop = patience > 0 && self.counters.stale >= patience;
        if stop && step < self.plan.steps() {
            observer.log(&format!(
                "stopped early at step {step}: {patience} validations without a better one (--patience)"
            ));
        }
        Ok(stop)
    }
}

/// Validations of a stage of a path whose polish phase trains on `n_trained` rows, one row as often
/// as it comes: of a short one they would take longer than its steps.
fn path_validations(n_trained: usize, n_valid: usize) -> usize {
    let (fewest, most) = PATH_VALIDATIONS;
    (n_trained / n_valid.max(1)).clamp(fewest, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_stage_is_not_validated_on_more_rows_than_it_trains_on() {
        assert_eq!(path_validations(692, 100), 4);
        assert_eq!(path_validations(188, 48), 3);
        assert_eq!(path_validations(136, 100), 2);
        assert_eq!(path_validations(40, 0), 4);
    }
}
