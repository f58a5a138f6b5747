//! What comes before the steps of a run and between its stages: the unedited model, the rate,
//! the best of each stage, and which of them serves.

use std::rc::Rc;
use std::time::Duration;

use super::mean::Mean;
use super::observer::Observer;
use super::path::Candidate;
use super::rate_search::{find_rate, judges, trial_settings, Trial};
use super::settings::Rate;
use super::state::Counters;
use super::step_record::Event;
use super::trainer::{Outcome, Trainer};
use super::unedited::Unedited;
use super::validation::{share, Done, RowScores, StageResult};
use crate::method::Parameters;
use crate::Error;

impl Trainer<'_> {
    /// Measures what the run has to beat, once.
    pub(super) fn measure_unedited(&mut self, observer: &mut dyn Observer) {
        if self.reference && self.counters.unedited.is_none() {
            let unedited = Unedited::measure(self.model, &self.valid, self.answers.as_ref());
            observer.event(&Event::Unedited(unedited));
            self.counters.unedited = Some(unedited);
        }
    }

    /// The learning rate, found by trials unless it is given.
    pub(super) fn rate(&mut self, observer: &mut dyn Observer) -> Result<f64, Error> {
        if let Rate::Fixed(rate) = self.settings.lr {
            return Ok(rate);
        }
        if let Some(rate) = self.counters.rate {
            return Ok(rate);
        }
        let unedited = self.counters.unedited;
        let trials = self.counters.trials.clone();
        let method = &self.settings.method;
        let found = find_rate(method, unedited, trials, |rate, done| {
            if !done.is_empty() && observer.checkpoint_due() {
                self.counters.trials = done.to_vec();
                observer.checkpoint(&self.state());
            }
            let least = done.iter().map(|trial| trial.badness(unedited));
            let trial = self.try_rate(rate, least.fold(f64::INFINITY, f64::min))?;
            observer.event(&Event::Trial(trial.clone()));
            Ok::<_, Error>(trial)
        })?;
        observer.log(&found.to_string());
        self.counters.trials = found.trials;
        self.counters.rate = Some(found.rate);
        Ok(found.rate)
    }

    /// Trains a little at this rate, apart from the run. A trial whose loss is not below `least` is
    /// not the best, whatever answers it chooses.
    fn try_rate(&self, rate: f64, least: f64) -> Result<Trial, Error> {
        let settings = trial_settings(self.settings, rate);
        let (train, valid) = (self.train.sequences(), self.valid.sequences());
        let rows = [train, judges(train, valid)];
        let calibration = Rc::clone(&self.calibration);
        let mut trainer = Trainer::around(self.model, &settings, rows, calibration)?;
        trainer.reference = false;
        trainer.choosing_below = least;
        let (result, tokens, scores) = match trainer.run(&mut ()) {
            Ok((_, outcome)) => {
                let Candidate { result, scores, .. } = outcome.chosen();
                (*result, outcome.tokens, scores.clone())
            }
            Err(Error::Diverged { .. }) => (None, 0, RowScores::default()),
            Err(error) => return Err(error),
        };
        Ok(Trial {
            rate,
            loss: result.map(|result| result.validation.loss),
            choice: result.and_then(|result| result.choice),
            tokens,
            scores,
        })
    }

    /// Notes the best of a stage, and goes to where the next one begins; returns whether there is
    /// none.
    pub(super) fn end_stage(&mut self, stage: usize, observer: &mut dyn Observer) -> bool {
        if !self.mean.is_empty() {
            self.parameters.set_values(self.mean.values());
        }
        let values = match self.best.is_empty() {
            true => self.optim.values(),
            false => std::mem::take(&mut self.best),
        };
        self.parameters.set_values(&values);
        let validation = self.counters.best.take();
        let result = validation.map(|validation| StageResult {
            validation,
            choice: self.choice(validation.loss),
        });
        observer.event(&Event::Stage {
            number: stage,
            result,
        });
        let level = self.plan.stages[stage].level;
        self.counters.stages.push(Done { level, result });
        self.counters.stale = 0;
        self.candidates.push(Candidate {
            level,
            result,
            scores: std::mem::take(&mut self.best_scores),
            values,
        });
        if stage + 1 == self.plan.stages.len() {
            return true;
        }
        if stage == 0 {
            self.start = self.changing();
        }
        // What is left of a stage that gets no better is left out.
        self.counters.step = self.plan.end(stage);
        self.plan_third(observer);
        self.mean = self.mean_before(stage + 1);
        if self.plan.stages[stage + 1].level != level {
            self.go_back();
        }
        false
    }

    /// What the mean of a stage's cycles goes on from: that of the edit that it trains on.
    fn mean_before(&self, stage: usize) -> Mean {
        let level = self.plan.stages[stage].level;
        let mut done = self.candidates.list().iter();
        match done.find(|before| before.level == level) {
            Some(before) if self.cycles(stage) > 1 => Mean::of(&before.values),
            _ => Mean::default(),
        }
    }

    /// Once the first two stages of a path are done, they say what the third one closes, if it
    /// does: an edit of a level that is there already is trained on.
    pub(super) fn plan_third(&mut self, observer: &mut dyn Observer) {
        let ([_, _], [dense, second, third]) = (self.candidates.list(), &mut self.plan.stages[..])
        else {
            return;
        };
        third.level = self.candidates.next_level();
        if [dense.level, second.level].contains(&third.level) {
            (third.prune, third.polish) = (0, third.prune + third.polish);
            let what = match third.level == dense.level {
                true => "edit of all heads",
                false => "sparse edit",
            };
            observer.log(&format!("the last stage trains the {what} on"));
        } else if let Some(shares) = self.settings.target(third.level) {
            observer.log(&format!("the last stage closes {shares} of the gates"));
        }
    }

    /// Goes back to the dense edit, whose gates are all open.
    fn go_back(&mut self) {
        self.load_changing(None).expect("a state of this run");
        // It edits the lowest layer, too.
        self.train.forget();
        self.valid.forget();
        let choosing = self.choosing();
        if let Some(edits) = self.parameters.edits_mut() {
            edits.fix();
            if choosing {
                edits.release();
            }
        }
    }

    /// How often the likeliest answer of validation rows is right with the parameters as they
    /// stand, which are those of the stage's best of this `loss`, where they choose between a few.
    fn choice(&self, loss: f64) -> Option<f64> {
        let answers = self.answers.as_ref()?;
        if loss >= self.choosing_below {
            return None;
        }
        let changes = self.parameters.final_changes();
        let right = answers.choice(self.model, &changes, &self.valid, &self.best_scores)?;
        Some(share(&right))
    }

    /// Chooses between the candidates.
    pub(super) fn finish(mut self, rate: f64) -> (Parameters, Outcome) {
        let Counters {
            unedited,
            step,
            tokens,
            training_seconds,
            ..
        } = self.counters;
        if self.candidates.list().is_empty() {
            // Nothing was to be done.
            self.end_stage(self.plan.stages.len() - 1, &mut ());
        }
        let chosen = self.candidates.chosen(unedited.as_ref());
        self.candidates.list()[chosen].restore(&mut self.parameters);
        let n_rows = self.valid.sequences().len();
        let verdict = unedited.zip(self.candidates.list()[chosen].result);
        let outcome = Outcome {
            rate,
            unedited,
            verdict: verdict.map(|(unedited, result)| unedited.verdict(&result, n_rows)),
            chosen,
            candidates: self.candidates,
            steps: step,
            tokens,
            training_time: Duration::from_secs_f64(training_seconds),
        };
        (self.parameters, outcome)
    }
}
