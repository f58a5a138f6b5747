//! The training loop: learn, prune, polish.

use std::time::{Duration, Instant};

use tch::{no_grad, Kind, Reduction, Tensor};

use crate::batch::{Batch, Sequence};
use crate::dataset::Sampler;
use crate::edits::{Edits, GateValues, Init, LayerEdit, Method};
use crate::gates;
use crate::model::Model;
use crate::optim::{AdamW, AdamWConfig};
use crate::penalty::{Penalty, Sparsity};
use crate::schedule::{ramp, warmup_cosine, Phase, Plan};
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
const VALIDATION_TOKENS: usize = 2048;

/// What a user sets.
#[derive(Clone, Debug, PartialEq)]
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
    /// Everything random follows from it.
    pub seed: u64,
    /// The rest of the recipe.
    pub recipe: Recipe,
}

/// The part of the recipe that users rarely touch. Shares are of all steps.
#[derive(Clone, Copy, Debug, PartialEq)]
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

/// Where a run stands.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Phase of the last step.
    pub phase: Phase,
    /// Mean loss of the steps since the last report.
    pub loss: f64,
    /// λ of the penalty; 0 outside the prune phase.
    pub lambda: f64,
    /// Gates that are open by their deterministic value.
    pub open: usize,
    /// All gates.
    pub gates: usize,
    /// Training tokens per second so far.
    pub tokens_per_second: f64,
}

/// Loss and accuracy on held-out rows, with deterministic gates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Mean cross-entropy per response token.
    pub loss: f64,
    /// Share of rows whose every response token is the most likely one: what greedy
    /// decoding would get exactly right.
    pub exact: f64,
}

/// Watches a run.
pub trait Observer {
    /// Whether a report is wanted now; asked after every step.
    fn due(&mut self) -> bool;
    /// A report.
    fn progress(&mut self, progress: &Progress);
    /// A line for the log.
    fn log(&mut self, line: &str);
}

/// What a run gives back.
#[derive(Debug)]
pub struct Outcome {
    /// Validation of the returned edits; none without validation rows.
    pub validation: Option<Validation>,
    /// Tokens of all training steps.
    pub tokens: usize,
    /// Time of the training steps alone.
    pub training_time: Duration,
    /// Time of the whole run.
    pub total_time: Duration,
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
    best: Option<(Validation, Vec<Tensor>)>,
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
            steps,
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
        let plan = match method.gated() {
            true => Plan::new(steps, recipe.learn, recipe.prune),
            false => Plan {
                learn: 0,
                prune: 0,
                polish: steps,
            },
        };
        Trainer {
            model,
            settings,
            train,
            valid,
            sampler: Sampler {
                n_rows: train.len(),
                batch_size: settings.batch_size,
                seed,
            },
            plan,
            penalty: Penalty::new(settings.sparsity, &edits.log_alphas()),
            edits,
            optim,
            fixed: None,
            best: None,
        }
    }

    /// Runs all steps and returns the best edits of the polish phase.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss stops being a number.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<(Edits, Outcome), Error> {
        let start = Instant::now();
        let (mut tokens, mut training_time) = (0, Duration::ZERO);
        let mut losses: Vec<Tensor> = Vec::new();
        let steps = self.plan.steps();
        for step in 0..steps {
            let phase = self.plan.phase(step);
            if phase == Phase::Polish && self.fixed.is_none() {
                self.fix_gates(observer);
            }
            let begun = Instant::now();
            let batch = self.batch(step);
            tokens += batch.n_tokens();
            losses.push(self.step(step, phase, &batch));
            let due = observer.due() || step + 1 == steps;
            if due || losses.len() >= LOOK_EVERY {
                let loss = check(&mut losses, step)?;
                training_time += begun.elapsed();
                if due {
                    let lambda = self.penalty.lambda();
                    observer.progress(&Progress {
                        step: step + 1,
                        steps,
                        phase,
                        loss,
                        lambda: if phase == Phase::Prune { lambda } else { 0.0 },
                        open: self.edits.n_open(),
                        gates: self.edits.n_gates(),
                        tokens_per_second: tokens as f64 / training_time.as_secs_f64(),
                    });
                }
            } else {
                training_time += begun.elapsed();
            }
            if phase == Phase::Polish && self.validate_after(step) {
                self.validate(step, observer);
            }
        }
        if self.fixed.is_none() {
            self.fix_gates(observer);
        }
        let validation = self.restore_best();
        let total_time = start.elapsed();
        Ok((
            self.edits,
            Outcome {
                validation,
                tokens,
                training_time,
                total_time,
            },
        ))
    }

    fn batch(&self, step: usize) -> Batch {
        let rows = self.sampler.rows(step);
        Batch::pack(
            rows.iter().map(|&row| &self.train[row]),
            self.model.device(),
        )
    }

    /// One optimiser step; returns the cross-entropy, still on the device.
    fn step(&mut self, step: usize, phase: Phase, batch: &Batch) -> Tensor {
        let Settings {
            lr, recipe, seed, ..
        } = *self.settings;
        let edits = match &self.fixed {
            Some(fixed) => self.edits.layer_edits(fixed),
            None => self.edits.layer_edits(&self.edits.sample_gates(seed, step)),
        };
        let loss = cross_entropy(self.model, batch, &edits);
        if !loss.requires_grad() {
            return loss; // every gate is closed
        }
        loss.backward();
        if phase != Phase::Polish {
            self.penalty.observe(&self.edits.log_alphas());
        }
        if phase == Phase::Prune {
            let ramp = ramp(self.plan.prune_progress(step), recipe.ramp);
            self.penalty.add_gradient(&self.edits.log_alphas(), ramp);
        }
        let steps = self.plan.steps();
        let warmup = (steps as f64 * recipe.warmup).round() as usize;
        let rate = lr * warmup_cosine(step, steps, warmup, recipe.lr_floor);
        let gate_rate = if phase == Phase::Prune {
            self.gate_rate()
        } else {
            0.0
        };
        self.optim.step(&[rate, gate_rate]);
        self.optim.zero_grad();
        if let (Phase::Prune, Sparsity::Target(target)) = (phase, self.settings.sparsity) {
            let progress = self.plan.prune_progress(step) - recipe.closing;
            self.edits.close_to(target * ramp(progress, recipe.ramp));
        }
        loss.detach()
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

    /// Whether `step` of the polish phase is followed by a validation: `validations` times
    /// in even distances, the last after the last step.
    fn validate_after(&self, step: usize) -> bool {
        let done = step + 1 - self.plan.learn - self.plan.prune;
        let count = self.settings.recipe.validations.clamp(1, self.plan.polish);
        done * count / self.plan.polish != (done - 1) * count / self.plan.polish
    }

    fn validate(&mut self, step: usize, observer: &mut dyn Observer) {
        let (Some(fixed), false) = (&self.fixed, self.valid.is_empty()) else {
            return;
        };
        let edits = self.edits.layer_edits(fixed);
        let validation = evaluate(self.model, &edits, self.valid);
        let Validation { loss, exact } = validation;
        observer.log(&format!(
            "step {}: validation loss {loss:.4}, {:.1} % of rows exact",
            step + 1,
            exact * 100.0
        ));
        if self.best.as_ref().is_none_or(|(best, _)| loss < best.loss) {
            let vectors = self
                .edits
                .halves
                .iter()
                .map(|half| half.vectors.detach().copy());
            self.best = Some((validation, vectors.collect()));
        }
    }

    fn restore_best(&mut self) -> Option<Validation> {
        let (validation, vectors) = self.best.take()?;
        no_grad(|| {
            for (half, best) in self.edits.halves.iter_mut().zip(&vectors) {
                half.vectors.copy_(best);
            }
        });
        Some(validation)
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
fn fitting(sequences: &[Sequence], tokens: usize) -> usize {
    let mut sum = 0;
    let fits = sequences.iter().take_while(|sequence| {
        sum += sequence.tokens.len();
        sum <= tokens
    });
    fits.count().max(1)
}

/// Mean of the losses since the last look, which are then forgotten.
fn check(losses: &mut Vec<Tensor>, last_step: usize) -> Result<f64, Error> {
    let stacked = Tensor::stack(losses, 0).to_kind(Kind::Double);
    let values = Vec::<f64>::try_from(stacked).expect("one number per step");
    losses.clear();
    let first_step = last_step + 1 - values.len();
    match values.iter().position(|loss| !loss.is_finite()) {
        Some(index) => Err(Error::Diverged {
            step: first_step + index + 1,
            loss: values[index],
        }),
        None => Ok(values.iter().sum::<f64>() / values.len() as f64),
    }
}
