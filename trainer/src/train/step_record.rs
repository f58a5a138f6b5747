//! What is written down about a step and about a validation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rate_search::Trial;
use super::schedule::Phase;
use super::unedited::Unedited;
use super::validation::{StageResult, Validation};

/// A gate: layer and head.
pub type Gate = (usize, usize);

/// What one optimiser step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step, from 1.
    pub step: usize,
    /// The phase of the run that it belongs to.
    pub phase: Phase,
    /// Mean cross-entropy per response token of its rows, before the step.
    pub loss: f64,
    /// Mean Kullback-Leibler divergence of the edited model from the unedited one per place of
    /// prompts that was compared, before the step; `None` where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Learning rate of the vectors.
    pub lr: f64,
    /// Learning rate of the gates; 0 where they do not learn.
    pub gate_lr: f64,
    /// λ of the penalty that the step added, mean over the kinds of gates: in the prune phase,
    /// and in the learn phase of LoFiT; 0 where it added none.
    pub lambda: f64,
    /// Gates of each kind that are open after the step, by their deterministic value.
    pub open: BTreeMap<String, usize>,
    /// Gates of each kind that the step opened.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub opened: BTreeMap<String, Vec<Gate>>,
    /// Gates of each kind that the step closed; in the first step all that are closed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<String, Vec<Gate>>,
    /// Tokens that the model worked on.
    pub tokens: usize,
    /// Tokens per second of the steps read together with this one.
    pub tokens_per_second: f64,
}

impl StepRecord {
    /// Open gates of all kinds.
    pub fn n_open(&self) -> usize {
        self.open.values().sum()
    }
}

/// What is noted beside steps and validations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// What the run has to beat.
    Unedited(Unedited),
    /// A short trial of a learning rate.
    Trial(Trial),
    /// The run starts over, at a lower rate than it had; what was noted of its steps before is
    /// void.
    Restart {
        /// Learning rate at its peak.
        rate: f64,
    },
    /// The best of a stage.
    Stage {
        /// Which, from 0.
        number: usize,
        /// None without validation rows.
        result: Option<StageResult>,
    },
}

/// A validation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Steps done before it.
    pub step: usize,
    /// What it measured.
    pub validation: Validation,
    /// Whether it is the best so far.
    pub best: bool,
}
