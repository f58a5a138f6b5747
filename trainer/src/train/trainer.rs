//! A run: what it uses, everything that changes from step to step, and how that is saved.

use std::rc::Rc;
use std::time::Duration;

use tch::{Device, Tensor};

use super::answers::Answers;
use super::gate_history::GateHistory;
use super::mean::Mean;
use super::optimiser::{AdamW, AdamWConfig};
use super::path::{Candidate, Candidates};
use super::penalty::Penalty;
use super::schedule::{Phase, Plan};
use super::settings::Settings;
use super::state::{Counters, State};
use super::unedited::{Unedited, Verdict};
use super::unread_steps::UnreadSteps;
use super::validation::{RowScores, Validation};
use crate::data::{CachedRows, PromptReference, Sampler};
use crate::method::{Edits, Method, ParameterGroup, Parameters};
use crate::model::{fitting, Batch, Model, Sequence};
use crate::Error;

/// Fewer validation rows tell nothing about how often an answer is picked right.
const CHOOSING_ROWS: usize = 16;
/// Before the names of the tensors of [`Trainer::start`] in a saved state.
const START: &str = "start.";
/// Tokens of the forward pass that measures the size of head outputs.
const CALIBRATION_TOKENS: usize = 2048;

/// What a run gives back.
#[derive(Debug)]
pub struct Outcome {
    /// Learning rate at its peak.
    pub rate: f64,
    /// The unedited model; none without validation rows.
    pub unedited: Option<Unedited>,
    /// The best of each stage.
    pub candidates: Candidates,
    /// Which of them is returned.
    pub chosen: usize,
    /// How it stands against the unedited model; none without validation rows.
    pub verdict: Option<Verdict>,
    /// Steps done; fewer than planned when the run stopped early.
    pub steps: usize,
    /// Tokens of all training steps, trials of rates not among them.
    pub tokens: usize,
    /// Time of the training steps alone.
    pub training_time: Duration,
}

impl Outcome {
    /// The candidate that is returned.
    pub fn chosen(&self) -> &Candidate {
        &self.candidates.list()[self.chosen]
    }

    /// Validation of the returned edits; none without validation rows.
    pub fn validation(&self) -> Option<Validation> {
        self.chosen().result.map(|result| result.validation)
    }
}

/// What a run knows of the unedited model on the rows that it trains on.
#[derive(Debug)]
pub(super) struct Calibration {
    /// [L, H] root mean square of head outputs, where heads are edited.
    head_rms: Option<Tensor>,
    /// What it says at places of the prompts, where that is to stay.
    pub prompts: Option<PromptReference>,
}

impl Calibration {
    fn measure(model: &Model, settings: &Settings, train: &[Sequence]) -> Calibration {
        let Settings { ref method, kl, .. } = *settings;
        let head_rms = (!matches!(method, Method::Lora(_))).then(|| {
            let sizes = train.iter().map(|row| row.tokens.len());
            let rows = &train[..fitting(sizes, CALIBRATION_TOKENS)];
            model.head_rms(&Batch::pack(rows, model.device()))
        });
        let prompts = (kl > 0.0).then(|| PromptReference::measure(model, train));
        Calibration { head_rms, prompts }
    }
}

/// A run: the model and data it uses and everything that changes from step to step.
pub struct Trainer<'a> {
    pub(super) model: &'a Model,
    pub(super) settings: &'a Settings,
    pub(super) train: CachedRows<'a>,
    pub(super) valid: CachedRows<'a>,
    pub(super) sampler: Sampler,
    pub(super) plan: Plan,
    pub(super) parameters: Parameters,
    pub(super) optim: AdamW,
    /// `None` where no gates learn.
    pub(super) penalty: Option<Penalty>,
    pub(super) counters: Counters,
    /// Parameters of the stage's best validation, under their names in saved state.
    pub(super) best: Vec<(String, Tensor)>,
    /// Row by row, what they measured.
    pub(super) best_scores: RowScores,
    /// Of the ends of cycles of the stage, and of what it trains on.
    pub(super) mean: Mean,
    /// Where stages of a path begin that train no edit on: parameters, moments and averages of the
    /// penalty at the end of the first.
    pub(super) start: Vec<(String, Tensor)>,
    /// The stages that are done.
    pub(super) candidates: Candidates,
    /// The answers that rows choose between.
    pub(super) answers: Option<Answers>,
    pub(super) calibration: Rc<Calibration>,
    /// Whether the unedited model is measured.
    pub(super) reference: bool,
    /// With a loss that is not below this, it does not matter which answers are chosen.
    pub(super) choosing_below: f64,
    pub(super) unread: UnreadSteps,
    pub(super) gates: GateHistory,
    /// The state for a checkpoint, which is handed on as soon as the losses that follow from it
    /// are finite.
    pub(super) candidate: Option<State>,
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
        let calibration = Rc::new(Calibration::measure(model, settings, train));
        Trainer::around(model, settings, [train, valid], calibration)
    }

    /// [`new`](Self::new), with what is known of the unedited model on these rows.
    pub(super) fn around(
        model: &'a Model,
        settings: &'a Settings,
        [train, valid]: [&'a [Sequence]; 2],
        calibration: Rc<Calibration>,
    ) -> Result<Trainer<'a>, Error> {
        let Settings {
            ref method,
            recipe,
            seed,
            ..
        } = *settings;
        let head_rms = calibration.head_rms.as_ref();
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
            penalty: gated.map(|edits| Penalty::new(&edits.kinds())),
            unread: UnreadSteps::default(),
            gates: GateHistory::start(&parameters.open_gates()),
            parameters,
            optim,
            counters: Counters::default(),
            best: Vec::new(),
            best_scores: RowScores::default(),
            mean: Mean::default(),
            start: Vec::new(),
            candidates: Candidates::default(),
            answers: Answers::of(train).filter(|_| valid.len() >= CHOOSING_ROWS),
            reference: !valid.is_empty(),
            choosing_below: f64::INFINITY,
            calibration,
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

    /// What steps change: parameters, their moments, averages of the penalty. Copies, not views.
    pub(super) fn changing(&self) -> Vec<(String, Tensor)> {
        let penalty = self.penalty.iter().flat_map(Penalty::state);
        self.optim.state().into_iter().chain(penalty).collect()
    }

    /// Puts [`changing`](Self::changing) back, from a saved state or from the end of the first stage.
    pub(super) fn load_changing(
        &mut self,
        state: Option<&[(String, Tensor)]>,
    ) -> Result<(), Error> {
        let state = state.unwrap_or(&self.start);
        self.optim.load_state(state)?;
        match &mut self.penalty {
            Some(penalty) => penalty.load_state(state),
            None => Ok(()),
        }
    }

    /// Where the run stands, after a step; copies on the CPU.
    pub fn state(&self) -> State {
        let mut tensors = self.changing();
        let start = self.start.iter();
        tensors.extend(start.map(|(name, tensor)| (format!("{START}{name}"), tensor.copy())));
        let best = self.best.iter();
        tensors.extend(best.map(|(name, tensor)| (format!("best.{name}"), tensor.copy())));
        let scores = self.best_scores.tensors();
        tensors.extend(scores.map(|(name, tensor)| (format!("best.{name}"), tensor)));
        tensors.extend(self.mean.state());
        tensors.extend(self.candidates.state());
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
        self.candidates.load_state(state, &self.optim.values())?;
        let start = state.tensors.iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix(START)?;
            Some((name.to_owned(), tensor.copy()))
        });
        self.start = start.collect();
        self.plan_third(&mut ());
        if self.plan.stages.len() > 1 && !state.counters.stages.is_empty() {
            // What is missing would be missed at the end of a stage only.
            self.load_changing(None)?;
        }
        self.load_changing(Some(&state.tensors))?;
        self.best.clear();
        if state.counters.best.is_some() {
            for (name, value) in self.optim.values() {
                let best = state.tensor(&format!("best.{name}"), &value)?;
                self.best.push((name, best.to_device(value.device())));
            }
        }
        self.best_scores = RowScores::load(state, "best")?;
        self.mean = Mean::load(state, &self.optim.values())?;
        self.counters = state.counters.clone();
        self.gates = GateHistory::now(&self.parameters.open_gates());
        let choosing = self.choosing();
        if let Some(edits) = self.parameters.edits_mut() {
            match choosing && edits.method.gated() {
                true => edits.release(),
                false => edits.fix(),
            }
        }
        Ok(())
    }

    /// Whether the next step is one that still chooses heads.
    pub(super) fn choosing(&self) -> bool {
        let step = self.counters.step;
        step < self.plan.steps() && self.plan.place(step).phase != Phase::Polish
    }
}
