//! The training loop: learn, prune, polish.

use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use crate::model::batch::{fitting, Batch, Sequence};
use crate::data::encode::Sampler;
use crate::method::edits::Edits;
use crate::train::estimate::BatchSize;
use crate::method::gates;
use crate::train::gradient::backward;
use crate::train::memory::Activations;
use crate::method::methods::Method;
use crate::model::decoder::Model;
use crate::train::optimiser::{AdamW, AdamWConfig};
use crate::train::penalty::{add_l1_gradient, Penalty, Sparsity};
use crate::train::recipe::{Recipe, Settings};
use crate::train::step_record::{GateHistory, Observer, Pending, Validation, ValidationRecord, Window};
use crate::data::cached_rows::Rows;
use crate::train::schedule::{ramp, warmup_cosine, Phase, Plan};
use crate::train::state::{Counters, State};
use crate::method::parameters::{Group, Trained};
use crate::train::validation::evaluate;
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
    train: Rows<'a>,
    valid: Rows<'a>,
    sampler: Sampler,
    plan: Plan,
    trained: Trained,
    optim: AdamW,
    /// With gates.
    penalty: Option<Penalty>,
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
    ///
    /// # Errors
    /// As [`Trained::new`].
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
        let trained = Trained::new(method, model, head_rms, recipe.init, seed)?;
        let mut optim = AdamW::new(AdamWConfig {
            beta2: recipe.beta2,
            ..AdamWConfig::default()
        });
        for (name, group, parameter) in trained.parameters() {
            let group = if recipe.joint { Group::Weights } else { group };
            optim.add(name, group as usize, parameter);
        }
        let gated = trained.edits().filter(|_| method.gated());
        Ok(Trainer {
            model,
            settings,
            train: Rows::new(train),
            valid: Rows::new(valid),
            sampler: settings.sampler(train.len()),
            plan: settings.plan(),
            penalty: gated.map(|edits| Penalty::new(sparsity, &edits.kinds())),
            window: Window::default(),
            gates: GateHistory::start(&trained.open_gates()),
            trained,
            optim,
            counters: Counters::default(),
            best: Vec::new(),
            candidate: None,
        })
    }

    /// Gates that the run can close.
    pub fn n_gates(&self) -> usize {
        let edits = self.trained.edits();
        let gated = edits.filter(|edits| edits.method.gated());
        gated.map_or(0, Edits::n_gates)
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
        self.gates = GateHistory::now(&self.trained.open_gates());
        if let Some(edits) = self.trained.edits_mut() {
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
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<(Trained, Outcome), Error> {
        let steps = self.plan.steps();
        if self.plan.choice() == 0 && self.counters.step == 0 && self.n_gates() > 0 {
            self.choose_heads(observer);
        }
        if self.counters.step >= self.plan.choice() {
            self.keep_below(observer);
        }
        for step in self.counters.step..steps {
            let begun = Instant::now();
            self.step(step);
            if step + 1 == self.plan.choice() {
                self.choose_heads(observer);
                self.keep_below(observer);
            }
            self.window.note_gates(self.trained.open_gates());
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
        if let Some(edits) = self.trained.edits_mut() {
            edits.fix();
        }
        Ok((
            self.trained,
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

    /// One optimiser step. Its numbers stay on the device.
    fn step(&mut self, step: usize) {
        let Settings {
            lr, recipe, seed, ..
        } = *self.settings;
        let phase = self.plan.phase(step);
        let batch = self
            .train
            .pack(&self.sampler.rows(step), self.model.device());
        let noise = self.settings.sparsity.sampled().then_some((seed, step));
        let edits = self.trained.training_edits(noise);
        let loss = backward(self.model, &batch, &edits, self.settings.recomputed);
        let rate = lr * self.rate_factor(step);
        let gate_rate = match phase {
            _ if recipe.joint => rate,
            Phase::Prune => self.gate_rate(),
            Phase::Learn | Phase::Polish => 0.0,
        };
        let mut lambda = None;
        // Without a gradient every gate is closed.
        if loss.requires_grad() {
            lambda = self.add_penalty(step, phase);
            let mut rates = [0.0; 2];
            rates[Group::Weights as usize] = rate;
            rates[Group::Gates as usize] = gate_rate;
            self.optim.step(&rates);
            self.optim.zero_grad();
            if let (Phase::Prune, Sparsity::Target(target)) = (phase, self.settings.sparsity) {
                let progress = self.plan.prune_progress(step) - recipe.closing;
                if let Some(edits) = self.trained.edits_mut() {
                    edits.close_to(target.times(ramp(progress, recipe.ramp)));
                }
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

    /// Adds the penalty's gradient to that of the task; returns its λ.
    fn add_penalty(&mut self, step: usize, phase: Phase) -> Option<Tensor> {
        let edits = self.trained.edits()?;
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

    /// What the learning rate of the weights is multiplied by. LoFiT's two stages have a
    /// schedule each.
    fn rate_factor(&self, step: usize) -> f64 {
        let recipe = self.settings.recipe;
        let choice = self.plan.choice();
        let peak = match self.plan.phase(step) {
            Phase::Polish if self.settings.method.gated() => recipe.polish_rate,
            _ => 1.0,
        };
        let (step, steps, hold) = match self.settings.method {
            Method::Lofit { .. } if step < choice => (step, choice, 0),
            Method::Lofit { .. } => (step - choice, self.plan.polish, 0),
            _ if recipe.hold => (step, self.plan.steps(), choice),
            _ => (step, self.plan.steps(), 0),
        };
        let warmup = (steps as f64 * recipe.warmup).round() as usize;
        peak * warmup_cosine(step, steps, warmup, hold, recipe.lr_floor)
    }

    /// Learning rate of the gates. Adam moves a gate that is pushed steadily by the rate in
    /// every step.
    fn gate_rate(&self) -> f64 {
        let Recipe { closing, init, .. } = self.settings.recipe;
        let distance = init.log_alpha - gates::closing_log_alpha();
        let steps = (self.plan.prune as f64 * closing).max(1.0);
        self.settings.gate_lr.unwrap_or(distance / steps)
    }

    /// Ends the choice of heads: closes what is missing to the target and fixes the rest, or
    /// takes those that LoFiT's scales name.
    fn choose_heads(&mut self, observer: &mut dyn Observer) {
        let Some(edits) = self.trained.edits_mut() else {
            return;
        };
        if let Method::Lofit { heads, .. } = edits.method {
            edits.choose_by_scale(heads);
            observer.log(&format!("chose {heads} heads by their scales"));
        } else {
            if let Sparsity::Target(shares) = self.settings.sparsity {
                let open = edits.n_open();
                edits.close_to(shares);
                let short = open - edits.n_open();
                if short > 0 {
                    observer.log(&format!(
                        "pruning ended {short} gates short of sparsity {shares}: closed those with the lowest log_alpha"
                    ));
                }
            }
            let (open, gates) = (edits.n_open(), edits.n_gates());
            observer.log(&format!("gates fixed: {open} of {gates} open"));
        }
        edits.fix();
    }

    /// Keeps what the layers below all edits make of the rows, as far as it takes no more
    /// memory than the estimate of the run counts for those layers' backward pass. Heads must
    /// have been chosen.
    fn keep_below(&mut self, observer: &mut dyn Observer) {
        let edits = self.trained.final_edits();
        let lowest = edits.iter().position(|edit| !edit.is_empty());
        let Some(lowest @ 1..) = lowest else {
            return;
        };
        let sizes = (0..self.sampler.steps_per_epoch()).map(|step| {
            let rows = self.sampler.rows(step);
            let size = BatchSize::of(rows.iter().map(|&row| &self.train.sequences()[row]));
            Activations::new(&self.model.config, self.model.precision, size, &[]).layer
        });
        // Layers that are computed again leave nothing but what they read.
        let spared = lowest.saturating_sub(self.settings.recomputed) as u64;
        let mut spared = spared * sizes.max().unwrap_or(0);
        for rows in [&mut self.train, &mut self.valid] {
            let bytes = rows.stream_bytes(self.model);
            if bytes > 0 && bytes <= spared {
                spared -= bytes;
                rows.keep(self.model, lowest);
                observer.log(&format!(
                    "layers below all edits, computed once for {} rows: {lowest} ({:.0} MB kept)",
                    rows.sequences().len(),
                    bytes as f64 / 1e6
                ));
            }
        }
    }

    /// Whether `step` is followed by a validation: in the polish phase (in all steps without
    /// one) `validations` times in even distances, the last after the last step.
    fn validate_after(&self, step: usize) -> bool {
        let (start, span) = match self.plan.polish {
            0 => (0, self.plan.steps()),
            polish => (self.plan.choice(), polish),
        };
        if step < start || self.valid.sequences().is_empty() {
            return false;
        }
        let done = step + 1 - start;
        let count = self.settings.recipe.validations.clamp(1, span);
        done * count / span != (done - 1) * count / span
    }

    /// Validates and keeps the best parameters; returns whether it is time to stop.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<bool, Error> {
        let validation = evaluate(self.model, &self.trained.final_edits(), &self.valid);
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
