//! The training loop: learn, prune, polish.

use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use super::choice::choose_heads;
use super::gate_history::GateHistory;
use super::gradient::backward;
use super::observer::Observer;
use super::optimiser::{AdamW, AdamWConfig};
use super::penalty::{add_l1_gradient, Penalty};
use super::rates::LearningRates;
use super::schedule::{ramp, Phase, Plan};
use super::settings::Settings;
use super::state::{Counters, State};
use super::step_record::ValidationRecord;
use super::streams::keep_streams;
use super::unread_steps::{UnreadStep, UnreadSteps};
use super::validation::{evaluate, Validation};
use crate::data::{CachedRows, Sampler};
use crate::method::{Edits, Method, ParameterGroup, Parameters, Sparsity};
use crate::model::{fitting, Batch, Model, Sequence};
use crate::Error;

/// Losses are looked at together after this many steps: each look waits for the device.
const LOOK_EVERY: usize = 16;
/// Tokens of the forward pass that measures the size of head outputs.
const CALIBRATION_TOKENS: usize = 2048;

/// What a run gives back.
#[derive(Debug)]
pub struct Outcome {
    /// Validation of the returned edits; none without validation rows.
    pub validation: Option<Validation>,
    /// Steps done; fewer than planned when the run stopped early.
    pub steps: usize,
    /// Tokens of all training steps.
    pub tokens: usize,
    /// Time of the training steps alone.
    pub training_time: Duration,
}

/// A run: the model and data it uses and everything that changes from step to step.
pub struct Trainer<'a> {
    model: &'a Model,
    settings: &'a Settings,
    train: CachedRows<'a>,
    valid: CachedRows<'a>,
    sampler: Sampler,
    plan: Plan,
    parameters: Parameters,
    optim: AdamW,
    /// `None` where no gates learn.
    penalty: Option<Penalty>,
    counters: Counters,
    /// Parameters of the best validation, under their names in saved state.
    best: Vec<(String, Tensor)>,
    unread: UnreadSteps,
    gates: GateHistory,
    /// The state for a checkpoint, which is handed on as soon as the losses that follow from it
    /// are finite.
    candidate: Option<State>,
}

impl<'a> Trainer<'a> {
    /// A run at its start. `train` must not be empty; `valid` may be.
    ///
    /// # Errors
    /// As [`Parameters::new`].
    pub fn new(
        model: &'a Model,
        settings: &'a Settings,
        train: &'a [Sequence],
        valid: &'a [Sequence],
    ) -> Result<Trainer<'a>, Error> {
        let Settings {
            ref method,
            recipe,
            seed,
            sparsity,
            ..
        } = *settings;
        let head_rms = || {
            let calibration = &train[..fitting(train, CALIBRATION_TOKENS)];
            model.head_rms(&Batch::pack(calibration, model.device()))
        };
        let parameters = Parameters::new(method, model, head_rms, recipe.init, seed)?;
        let mut optim = AdamW::new(AdamWConfig {
            beta2: recipe.beta2,
            ..AdamWConfig::default()
        });
        for (name, group, parameter) in parameters.named() {
            let group = if recipe.joint {
                ParameterGroup::Weights
            } else {
                group
            };
            optim.add(name, group as usize, parameter);
        }
        let gated = parameters.edits().filter(|_| method.gated());
        Ok(Trainer {
            model,
            settings,
            train: CachedRows::new(train),
            valid: CachedRows::new(valid),
            sampler: settings.sampler(train.len()),
            plan: settings.plan(),
            penalty: gated.map(|edits| Penalty::new(sparsity, &edits.kinds())),
            unread: UnreadSteps::default(),
            gates: GateHistory::start(&parameters.open_gates()),
            parameters,
            optim,
            counters: Counters::default(),
            best: Vec::new(),
            candidate: None,
        })
    }

    /// Gates that the run can close.
    pub fn n_gates(&self) -> usize {
        let edits = self.parameters.edits();
        let gated = edits.filter(|edits| edits.method.gated());
        gated.map_or(0, Edits::n_gates)
    }

    /// Steps that have been done.
    pub fn steps_done(&self) -> usize {
        self.counters.step
    }

    /// Where the run stands, after a step; copies on the CPU.
    pub fn state(&self) -> State {
        let mut tensors = self.optim.state();
        tensors.extend(self.penalty.iter().flat_map(Penalty::state));
        let best = self.best.iter();
        tensors.extend(best.map(|(name, tensor)| (format!("best.{name}"), tensor.copy())));
        for (_, tensor) in &mut tensors {
            *tensor = tensor.to_device(Device::Cpu);
        }
        State {
            counters: self.counters.clone(),
            tensors,
        }
    }

    /// Continues where the run stood that `state` comes from: what follows is exactly what
    /// would have followed there.
    ///
    /// # Errors
    /// [`Error::State`] when it comes from a run of other parameters.
    pub fn restore(&mut self, state: &State) -> Result<(), Error> {
        self.optim.load_state(&state.tensors)?;
        if let Some(penalty) = &mut self.penalty {
            penalty.load_state(&state.tensors)?;
        }
        self.best.clear();
        if state.counters.best.is_some() {
            for (name, value) in self.optim.values() {
                let best = state.tensor(&format!("best.{name}"), &value)?;
                self.best.push((name, best.to_device(value.device())));
            }
        }
        self.counters = state.counters.clone();
        self.gates = GateHistory::now(&self.parameters.open_gates());
        if let Some(edits) = self.parameters.edits_mut() {
            if self.counters.step >= self.plan.choice() || !edits.method.gated() {
                edits.fix();
            }
        }
        Ok(())
    }

    /// Runs the steps that are left and returns the best parameters of the polish phase.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss stops being a number.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<(Parameters, Outcome), Error> {
        // Nothing is left of a run that had stopped early and is continued to write its result.
        let steps = match self.out_of_patience() {
            true => self.counters.step,
            false => self.plan.steps(),
        };
        if self.plan.choice() == 0 && self.counters.step == 0 && self.n_gates() > 0 {
            self.choose_heads(observer);
        }
        if self.counters.step >= self.plan.choice() {
            self.keep_streams(observer);
        }
        for step in self.counters.step..steps {
            let begun = Instant::now();
            self.step(step);
            if step + 1 == self.plan.choice() {
                self.choose_heads(observer);
                self.keep_streams(observer);
            }
            self.unread.note_gates(self.parameters.open_gates());
            self.unread.add_time(begun.elapsed());
            let last = step + 1 == steps;
            let validate = self.validates_after(step);
            if observer.due() || last || validate || self.unread.len() >= LOOK_EVERY {
                self.look(observer)?;
            }
            if validate && self.validate(observer)? {
                break;
            }
            if !last && observer.checkpoint_due() {
                self.look(observer)?;
                self.candidate = Some(self.state());
            }
        }
        self.look(observer)?;
        observer.finished(self.state());
        self.optim.set_values(&self.best);
        if let Some(edits) = self.parameters.edits_mut() {
            edits.fix();
        }
        Ok((
            self.parameters,
            Outcome {
                validation: self.counters.best,
                steps: self.counters.step,
                tokens: self.counters.tokens,
                training_time: Duration::from_secs_f64(self.counters.training_seconds),
            },
        ))
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

    /// One optimiser step. Its numbers stay on the device.
    fn step(&mut self, step: usize) {
        let Settings { recipe, seed, .. } = *self.settings;
        let phase = self.plan.phase(step);
        let batch = self
            .train
            .pack(&self.sampler.rows(step), self.model.device());
        let noise = self.settings.sparsity.sampled().then_some((seed, step));
        let changes = self.parameters.training_changes(noise);
        let loss = backward(self.model, &batch, &changes, self.settings.recomputed);
        let rates = LearningRates::new(self.settings, self.plan);
        let (rate, gate_rate) = (rates.weights(step), rates.gates(step));
        let mut lambda = None;
        // Without a gradient every gate is closed.
        if loss.requires_grad() {
            lambda = self.add_penalty(step, phase);
            let mut rates = [0.0; 2];
            rates[ParameterGroup::Weights as usize] = rate;
            rates[ParameterGroup::Gates as usize] = gate_rate;
            self.optim.step(&rates);
            self.optim.zero_grad();
            if let (Phase::Prune, Sparsity::Target(target)) = (phase, self.settings.sparsity) {
                let progress = self.plan.prune_progress(step) - recipe.closing;
                if let Some(edits) = self.parameters.edits_mut() {
                    edits.close_to(target.times(ramp(progress, recipe.ramp)));
                }
            }
        }
        self.counters.step = step + 1;
        self.counters.tokens += batch.n_tokens();
        self.unread.push(UnreadStep {
            step,
            phase,
            lr: rate,
            gate_lr: gate_rate,
            tokens: batch.n_tokens(),
            loss: loss.detach(),
            lambda,
            open: Vec::new(),
        });
    }

    /// Adds the penalty's gradient to that of the task; returns its λ.
    fn add_penalty(&mut self, step: usize, phase: Phase) -> Option<Tensor> {
        let edits = self.parameters.edits()?;
        if let (Method::Lofit { l1, .. }, Phase::Learn) = (&edits.method, phase) {
            add_l1_gradient(&edits.halves[0].vectors, *l1);
            return Some(Tensor::from(*l1));
        }
        let penalty = self.penalty.as_mut()?;
        if phase != Phase::Polish && !self.settings.sparsity.sampled() {
            penalty.observe(&edits.worth());
        }
        if phase != Phase::Prune {
            return None;
        }
        let recipe = self.settings.recipe;
        let ramp = ramp(self.plan.prune_progress(step), recipe.ramp);
        let decay = (-recipe.lambda_decay * step as f64).exp();
        penalty.add_gradient(&edits.log_alphas(), ramp * decay);
        Some(penalty.lambda().copy())
    }

    /// Ends the choice of heads.
    fn choose_heads(&mut self, observer: &mut dyn Observer) {
        if let Some(edits) = self.parameters.edits_mut() {
            choose_heads(edits, self.settings.sparsity, observer);
        }
    }

    /// Keeps what the layers below all edits make of the rows, where that takes no more memory
    /// than was counted for those layers. Heads must have been chosen.
    fn keep_streams(&mut self, observer: &mut dyn Observer) {
        let changes = self.parameters.final_changes();
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

    /// Whether `step` is followed by a validation.
    fn validates_after(&self, step: usize) -> bool {
        let validations = self.settings.recipe.validations;
        !self.valid.sequences().is_empty() && self.plan.validates_after(step, validations)
    }

    /// Validates and keeps the best parameters; returns whether it is time to stop.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<bool, Error> {
        let validation = evaluate(self.model, &self.parameters.final_changes(), &self.valid);
        let Counters { step, best, .. } = self.counters;
        let Validation { loss, .. } = validation;
        if !loss.is_finite() {
            return Err(Error::Diverged { step, loss });
        }
        let n_rows = self.valid.sequences().len();
        let better = best.is_none_or(|best| match self.settings.recipe.best_by_loss {
            true => loss < best.loss,
            false => validation.is_better(&best, n_rows),
        });
        if better {
            self.counters.best = Some(validation);
            self.counters.stale = 0;
            self.best = self.optim.values();
        } else {
            self.counters.stale += 1;
        }
        observer.validated(&ValidationRecord {
            step,
            validation,
            best: better,
        });
        let stop = self.out_of_patience();
        if stop && step < self.plan.steps() {
            let patience = self.settings.patience;
            observer.log(&format!(
                "stopped early at step {step}: {patience} validations without a better one (--patience)"
            ));
        }
        Ok(stop)
    }

    /// Whether enough validations in a row were no better than the best before.
    fn out_of_patience(&self) -> bool {
        let patience = self.settings.patience;
        patience > 0 && self.counters.stale >= patience
    }
}
