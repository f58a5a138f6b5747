//! The recipe behind a run's settings: what users rarely touch.

use serde::Serialize;

use crate::method::Init;

/// λ of the paper's recipe at the first step.
pub const PAPER_LAMBDA: f64 = 0.1;
/// Learning rate of the paper's released code.
pub const PAPER_LR: f64 = 5e-3;

/// How a run goes in detail. Shares are of all steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Share of the learn phase.
    pub learn: f64,
    /// Share of the prune phase; polish takes the rest.
    pub prune: f64,
    /// Share of the prune phase over which the sparsity target (or a given λ) rises.
    pub ramp: f64,
    /// λ falls by the factor e to the minus this in every step.
    pub lambda_decay: f64,
    /// Gates learn with the vectors: at their rate, and clipped by one norm with them.
    pub joint: bool,
    /// Share of the prune phase that it takes to close a gate (without --gate-lr). Gates
    /// that are still open that long after their turn are closed at once.
    pub closing: f64,
    /// The learning rate stays at its peak until heads are chosen and falls in the polish
    /// phase only, so that what is left can still learn what closed gates took away.
    pub hold: bool,
    /// Memory of AdamW's second moment. With 0.999 the large gradients of a short run's first
    /// steps keep all later ones small.
    pub beta2: f64,
    /// Share of the linear warm-up.
    pub warmup: f64,
    /// The learning rate ends at this part of its peak.
    pub lr_floor: f64,
    /// Validations in the polish phase; in the whole run where it has no steps.
    pub validations: usize,
    /// The best validation is that of the lowest loss, not that of the most rows exact.
    pub best_by_loss: bool,
    /// What vectors and gates start from.
    pub init: Init,
}

impl Recipe {
    /// What a run uses unless it is told otherwise.
    pub const DEFAULT: Recipe = Recipe {
        learn: 0.2,
        prune: 0.25,
        ramp: 0.5,
        lambda_decay: 0.0,
        joint: false,
        closing: 0.25,
        hold: true,
        beta2: 0.95,
        warmup: 0.05,
        lr_floor: 0.05,
        validations: 5,
        best_by_loss: false,
        init: Init::DEFAULT,
    };

    /// What the paper's released code does in `steps` steps, with the paper's penalty: one
    /// λ for all gates, which starts at [`PAPER_LAMBDA`]. Gates start about half open,
    /// Xavier-uniform on [heads, 1].
    pub fn paper(steps: usize, epochs: usize, n_head: usize) -> Recipe {
        Recipe {
            learn: 0.0,
            prune: 1.0,
            ramp: 0.0,
            lambda_decay: 0.01,
            joint: true,
            hold: false,
            beta2: 0.999,
            warmup: 50.0 / steps as f64,
            lr_floor: 0.0,
            validations: epochs,
            best_by_loss: true,
            init: Init {
                log_alpha: 0.0,
                log_alpha_spread: (6.0 / (n_head + 1) as f64).sqrt(),
                plain_offsets: true,
                ..Init::DEFAULT
            },
            ..Recipe::DEFAULT
        }
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe::DEFAULT
    }
}
