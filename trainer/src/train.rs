//! The training loop: learn, prune, polish.

use std::time::{Duration, Instant};

use serde::Serialize;
use tch::{no_grad, Device, Reduction, Tensor};

use crate::batch::{Batch, Sequence};
use crate::dataset::Sampler;
use crate::edits::{Edits, GateValues, Init, LayerEdit, Method};
use crate::gates;
use crate::model::Model;
use crate::optim::{AdamW, AdamWConfig};
use crate::penalty::{Penalty, Sparsity};
use crate::record::{GateHistory, Observer, Pending, Validation, ValidationRecord, Window};
use crate::schedule::{ramp, warmup_cosine, Phase, Plan};
use crate::state::{Counters, State};
use crate::Error;

/// Optimiser group of the vectors.
const VECTORS: usize = 0;
/// Optimiser group of the gates.
const GATES: usize = 1;
/// Losses are looked at together after this many steps: each look waits for the device.
const LOOK_EVERY: usize = 16;
/// Tokens of the forward pass that measures the size of head outputs.
const CALIBRATION_TOKENS: usize = 2048;
/// Tokens of one validation batch.
pub(crate) const VALIDATION_TOKENS: usize = 2048;

/// What a user sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// What is trained.
    pub method: Method,
    /// How many gates to close.
    pub sparsity: Sparsity,
    /// Optimiser steps in all.
    pub steps: usize,
    /// Rows per step.
    pub batch_size: usize,
    /// Learning rate of the vectors at its peak.
    pub lr: f64,
    /// Learning rate of the gates; `None`: fast enough to close a gate within the part
    /// [`Recipe::closing`] of the prune phase.
    pub gate_lr: Option<f64>,
    /// Validations without a better one after which a run stops; 0: never.
    pub patience: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// The rest of the recipe.
    pub recipe: Recipe,
}

impl Settings {
    /// The steps of each phase.
    pub fn plan(&self) -> Plan {
        match self.method.gated() {
            true => Plan::new(self.steps, self.recipe.learn, self.recipe.prune),
            false => Plan {
                learn: 0,
                prune: 0,
                polish: self.steps,
            },
        }
    }

    /// The order of `n_rows` rows.
    pub fn sampler(&self, n_rows: usize) -> Sampler {
        Sampler {
            n_rows,
            batch_size: self.batch_size,
            seed: self.seed,
        }
    }
}

/// The part of the recipe that users rarely touch. Shares are of all steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Share of the learn phase.
    pub learn: f64,
    /// Share of the prune phase; polish takes the rest.
    pub prune: f64,
    /// Share of the prune phase over which the sparsity target (or a given λ) rises.
    pub ramp: f64,
    /// Share of the prune phase that it takes to close a gate (without --gate-lr). Gates
    /// that are still open that long after their turn are closed at once.
    pub closing: f64,
    /// Share of the linear warm-up.
    pub warmup: f64,
    /// The learning rate ends at this part of its peak.
    pub lr_floor: f64,
    /// Validations in the polish phase.
    pub validations: usize,
    /// Initial values.
    pub init: Init,
}

impl Recipe {
    /// What a run uses unless it is told otherwise.
    pub const DEFAULT: Recipe = Recipe {
        learn: 0.25,
        prune: 0.4,
        ramp: 0.5,
        closing: 0.25,
        warmup: 0.05,
        lr_floor: 0.05,
        validations: 5,
        init: Init {
            vector_std: 1e-3,
            log_alpha: 2.0,
        },
    };
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe::DEFAULT
    }
}

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
    train: &'a [Sequence],
    valid: &'a [Sequence],
    sampler: Sampler,
    plan: Plan,
    edits: Edits,
    optim: AdamW,
    penalty: Penalty,
    /// Gates of the polish phase.
    fixed: Option<Vec<GateValues>>,
    counters: Counters,
    /// Parameters of the best validation, under their names in saved state.
    best: Vec<(String, Tensor)>,
    window: Window,
    gates: GateHistory,
    /// For a checkpoint, as soon as the losses that follow from it are finite.
    candidate: Option<State>,
}

impl<'a> Trainer<'a> {
    /// A run at its start. `train` must not be empty; `valid` may be.
    pub fn new(
        model: &'a Model,
        settings: &'a Settings,
        train: &'a [Sequence],
        valid: &'a [Sequence],
    ) -> Trainer<'a> {
        let Settings {
            method,
            recipe,
            seed,
            ..
        } = *settings;
        let calibration = Batch::pack(&train[..fitting(train, CALIBRATION_TOKENS)], model.device());
        let head_rms = model.head_rms(&calibration);
        let edits = Edits::new(method, model.config.head_dim, &head_rms, recipe.init, seed);
        let mut optim = AdamW::new(AdamWConfig::default());
        for half in &edits.halves {
            let (vectors, log_alpha) = half.half.parameter_names();
            optim.add(vectors, VECTORS, &half.vectors);
            optim.add(log_alpha, GATES, &half.log_alpha);
        }
        Trainer {
            model,
            settings,
            train,
            valid,
            sampler: settings.sampler(train.len()),
            plan: settings.plan(),
            penalty: Penalty::new(settings.sparsity, &edits.log_alphas()),
            window: Window::default(),
            gates: GateHistory::start(&edits),
            edits,
            optim,
            fixed: None,
            counters: Counters::default(),
            best: Vec::new(),
            candidate: None,
        }
    }

    /// Gates that the run can close.
    pub fn n_gates(&self) -> usize {
        match self.edits.method.gated() {
            true => self.edits.n_gates(),
            false => 0,
        }
    }

    /// Where the run stands, after a step; copies on the CPU.
    pub fn state(&self) -> State {
        let mut tensors = self.optim.state();
        tensors.extend(self.penalty.state());
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
        self.penalty.load_state(&state.tensors)?;
        self.best.clear();
        if state.counters.best.is_some() {
            for (name, value) in self.optim.values() {
                let best = state.tensor(&format!("best.{name}"), &value)?;
                self.best.push((name, best.to_device(value.device())));
            }
        }
        self.counters = state.counters.clone();
        self.gates = GateHistory::now(&self.edits);
        self.fixed = None;
        if self.counters.step >= self.plan.learn + self.plan.prune {
            self.fixed = Some(self.edits.fixed_gates());
        }
        Ok(())
    }

    /// Runs the steps that are left and returns the best edits of the polish phase.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss stops being a number.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<(Edits, Outcome), Error> {
        let steps = self.plan.steps();
        let chosen = self.plan.learn + self.plan.prune;
        if chosen == 0 && self.fixed.is_none() {
            self.fix_gates(observer);
        }
        for step in self.counters.step..steps {
            let begun = Instant::now();
            self.step(step);
            if step + 1 == chosen {
                self.fix_gates(observer);
            }
            self.window.note_gates(&self.edits);
            self.window.add_time(begun.elapsed());
            let last = step + 1 == steps;
            let validate = self.validate_after(step);
            if observer.due() || last || validate || self.window.len() >= LOOK_EVERY {
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
        self.optim.set_values(&self.best);
        Ok((
            self.edits,
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
        let (records, time) = self.window.read(&mut self.gates)?;
        self.counters.training_seconds += time.as_secs_f64();
        if let Some(state) = self.candidate.take_if(|_| !records.is_empty()) {
            observer.checkpoint(&state);
        }
        observer.steps(&records);
        Ok(())
    }

    fn batch(&self, step: usize) -> Batch {
        let rows = self.sampler.rows(step);
        Batch::pack(
            rows.iter().map(|&row| &self.train[row]),
            self.model.device(),
        )
    }

    /// One optimiser step. Its numbers stay on the device.
    fn step(&mut self, step: usize) {
        let Settings {
            lr, recipe, seed, ..
        } = *self.settings;
        let phase = self.plan.phase(step);
        let batch = self.batch(step);
        let edits = match &self.fixed {
            Some(fixed) => self.edits.layer_edits(fixed),
            None => self.edits.layer_edits(&self.edits.sample_gates(seed, step)),
        };
        let loss = cross_entropy(self.model, &batch, &edits);
        let rate = lr * self.rate_factor(step);
        let gate_rate = match phase {
            Phase::Prune => self.gate_rate(),
            Phase::Learn | Phase::Polish => 0.0,
        };
        let mut lambda = None;
        // Without a gradient every gate is closed.
        if loss.requires_grad() {
            loss.backward();
            if phase != Phase::Polish {
                self.penalty.observe(&self.edits.log_alphas());
            }
            if phase == Phase::Prune {
                let ramp = ramp(self.plan.prune_progress(step), recipe.ramp);
                self.penalty.add_gradient(&self.edits.log_alphas(), ramp);
                lambda = Some(self.penalty.lambda().copy());
            }
            self.optim.step(&[rate, gate_rate]);
            self.optim.zero_grad();
            if let (Phase::Prune, Sparsity::Target(target)) = (phase, self.settings.sparsity) {
                let progress = self.plan.prune_progress(step) - recipe.closing;
                self.edits.close_to(target * ramp(progress, recipe.ramp));
            }
        }
        self.counters.step = step + 1;
        self.counters.tokens += batch.n_tokens();
        self.window.push(Pending {
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

    /// What the learning rate of the vectors is multiplied by.
    fn rate_factor(&self, step: usize) -> f64 {
        let (steps, recipe) = (self.plan.steps(), self.settings.recipe);
        let warmup = (steps as f64 * recipe.warmup).round() as usize;
        warmup_cosine(step, steps, warmup, recipe.lr_floor)
    }

    /// Learning rate of the gates. Adam moves a gate that is pushed steadily by the rate in
    /// every step.
    fn gate_rate(&self) -> f64 {
        let Recipe { closing, init, .. } = self.settings.recipe;
        let distance = init.log_alpha - gates::closing_log_alpha();
        let steps = (self.plan.prune as f64 * closing).max(1.0);
        self.settings.gate_lr.unwrap_or(distance / steps)
    }

    /// Ends the choice of heads: closes what is missing to the target and fixes the rest.
    fn fix_gates(&mut self, observer: &mut dyn Observer) {
        if self.edits.method.gated() {
            if let Sparsity::Target(share) = self.settings.sparsity {
                let open = self.edits.n_open();
                self.edits.close_to(share);
                let short = open - self.edits.n_open();
                if short > 0 {
                    observer.log(&format!(
                        "pruning ended {short} gates short of sparsity {share}: closed those with the lowest log_alpha"
                    ));
                }
            }
        }
        let (open, gates) = (self.edits.n_open(), self.edits.n_gates());
        observer.log(&format!("gates fixed: {open} of {gates} open"));
        self.fixed = Some(self.edits.fixed_gates());
    }

    /// Whether `step` is followed by a validation: in the polish phase `validations` times
    /// in even distances, the last after the last step.
    fn validate_after(&self, step: usize) -> bool {
        if self.plan.phase(step) != Phase::Polish || self.valid.is_empty() {
            return false;
        }
        let done = step + 1 - self.plan.learn - self.plan.prune;
        let count = self.settings.recipe.validations.clamp(1, self.plan.polish);
        done * count / self.plan.polish != (done - 1) * count / self.plan.polish
    }

    /// Validates and keeps the best parameters; returns whether it is time to stop.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<bool, Error> {
        let edits = match &self.fixed {
            Some(fixed) => self.edits.layer_edits(fixed),
            None => self.edits.layer_edits(&self.edits.fixed_gates()),
        };
        let validation = evaluate(self.model, &edits, self.valid);
        let Counters { step, best, .. } = self.counters;
        let Validation { loss, .. } = validation;
        if !loss.is_finite() {
            return Err(Error::Diverged { step, loss });
        }
        let better = best.is_none_or(|best| loss < best.loss);
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

/// Mean cross-entropy of the batch's targets, one number with a gradient.
pub fn cross_entropy(model: &Model, batch: &Batch, edits: &[LayerEdit]) -> Tensor {
    let logits = model.forward(batch, edits);
    logits.cross_entropy_loss::<Tensor>(&batch.targets, None, Reduction::Mean, -100, 0.0)
}

/// Loss and exact matches of `sequences` under `edits`; `sequences` must not be empty.
pub fn evaluate(model: &Model, edits: &[LayerEdit], sequences: &[Sequence]) -> Validation {
    let (mut loss, mut targets, mut exact) = (0.0, 0, 0);
    let mut rest = sequences;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, VALIDATION_TOKENS));
        rest = later;
        let batch = Batch::pack(now, model.device());
        let (sum, hits) = no_grad(|| {
            let logits = model.forward(&batch, edits);
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
        for sequence in now {
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

/// How many of the first sequences have at most `tokens` tokens together; at least one.
pub(crate) fn fitting(sequences: &[Sequence], tokens: usize) -> usize {
    let mut sum = 0;
    let fits = sequences.iter().take_while(|sequence| {
        sum += sequence.tokens.len();
        sum <= tokens
    });
    fits.count().max(1)
}
