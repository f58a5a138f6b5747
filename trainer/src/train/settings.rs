//! What a user sets, and what goes without saying.

use serde::Serialize;

use super::recipe::{Recipe, PAPER_LAMBDA, PAPER_LR};
use super::schedule::Plan;
use crate::data::Sampler;
use crate::method::{ClosedShares, Method, Sparsity};

/// Share of the steps in which LoFiT chooses heads: its published scripts train both stages
/// for as many epochs.
const LOFIT_CHOICE: f64 = 0.5;

/// What a recipe makes of settings that the user leaves open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// How often every row is seen.
    pub epochs: usize,
    /// How many rows an optimiser step trains on.
    pub batch_size: usize,
    /// Validations without a better one after which a run stops; 0: never.
    pub patience: usize,
    /// How many gates to close.
    pub sparsity: Sparsity,
    /// Learning rate; `None`: [`Method::default_lr`].
    pub lr: Option<f64>,
}

impl Defaults {
    /// What goes with [`Recipe::DEFAULT`].
    pub const DEFAULT: Defaults = Defaults {
        epochs: 12,
        batch_size: 4,
        patience: 3,
        sparsity: Sparsity::Target(ClosedShares {
            scale: 0.9,
            offset: 0.85,
        }),
        lr: None,
    };

    /// What the paper's released code sets, with the paper's penalty.
    pub const PAPER: Defaults = Defaults {
        epochs: 20,
        batch_size: 8,
        patience: 2,
        sparsity: Sparsity::Lambda(PAPER_LAMBDA),
        lr: Some(PAPER_LR),
    };
}

/// What a run is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// What is trained.
    pub method: Method,
    /// How many gates to close.
    pub sparsity: Sparsity,
    /// Optimiser steps in all.
    pub steps: usize,
    /// How many rows an optimiser step trains on.
    pub batch_size: usize,
    /// Learning rate of vectors or low-rank factors at its peak.
    pub lr: f64,
    /// Learning rate of the gates; `None`: fast enough to close a gate within the part
    /// [`Recipe::closing`] of the prune phase.
    pub gate_lr: Option<f64>,
    /// Validations without a better one after which a run stops; 0: never.
    pub patience: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// How many layers, from the lowest, are recomputed in the backward pass.
    pub recomputed: usize,
    /// The rest of the recipe.
    pub recipe: Recipe,
}

impl Settings {
    /// The steps of each phase.
    pub fn plan(&self) -> Plan {
        let (learn, prune) = match &self.method {
            Method::Lofit { .. } => (LOFIT_CHOICE, 0.0),
            method if method.gated() => (self.recipe.learn, self.recipe.prune),
            _ => (0.0, 0.0),
        };
        Plan::new(self.steps, learn, prune)
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
