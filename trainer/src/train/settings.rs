//! What a user sets, and what goes without saying.

use serde::{Serialize, Serializer};

use super::recipe::{Recipe, PAPER_LAMBDA, PAPER_LR};
use super::schedule::{Phase, Place, Plan};
use crate::data::Sampler;
use crate::method::{ClosedShares, Method, Sparsity};

/// Share of the steps in which LoFiT chooses heads: its published scripts train both stages
/// for as many epochs.
const LOFIT_CHOICE: f64 = 0.5;

/// Shares of the gates that the stages of a path may close, by their level.
const LEVELS: [ClosedShares; 3] = [ClosedShares::both(0.0), ClosedShares::both(0.75), SHARES];
/// The levels of the first two stages, and of the third where the second is as good as the first.
const PATH: [usize; 3] = [0, 2, 2];
/// What most tasks that few heads serve need. Offsets are worth more than scales where few are
/// left (`research/recipe.md`).
const SHARES: ClosedShares = ClosedShares {
    scale: 0.9,
    offset: 0.85,
};
/// The learning rate rises with this power of how many gates are closed for one that is open.
const BOOST: f64 = 0.75;
/// A path of fewer steps would give its stages too few.
pub const SHORTEST_PATH: usize = 60;
/// Fewer validation rows do not tell a stage from a worse one: of ten, one that had lost 19 points
/// did no worse by one standard error (`research/recipe.md`).
pub const PATH_ROWS: usize = 20;
/// How often a path sees every row, unless it is told.
pub const PATH_EPOCHS: usize = 15;

/// The learning rate at its peak, of vectors or low-rank factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// The one that does best in short trials before the run.
    Auto,
    /// This one.
    Fixed(f64),
}

/// As on the command line.
impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Rate::Auto => serializer.serialize_str("auto"),
            Rate::Fixed(rate) => serializer.serialize_f64(*rate),
        }
    }
}

/// What a recipe makes of settings that the user leaves open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// How often every row is seen.
    pub epochs: usize,
    /// With few rows they are seen as often as so many steps take.
    pub least_steps: usize,
    /// How many rows an optimiser step trains on.
    pub batch_size: usize,
    /// Validations without a better one after which a run stops; 0: never.
    pub patience: usize,
    /// How many gates to close.
    pub sparsity: Sparsity,
    /// Learning rate.
    pub lr: Rate,
    /// Weight of the divergence from the unedited model at the prompts.
    pub kl: f64,
}

impl Defaults {
    /// What goes with [`Recipe::DEFAULT`].
    pub const DEFAULT: Defaults = Defaults {
        epochs: 12,
        least_steps: 150,
        batch_size: 4,
        patience: 3,
        sparsity: Sparsity::Path,
        lr: Rate::Auto,
        kl: 1.0,
    };

    /// What the paper's released code sets, with the paper's penalty.
    pub const PAPER: Defaults = Defaults {
        epochs: 20,
        least_steps: 0,
        batch_size: 8,
        patience: 2,
        sparsity: Sparsity::Lambda(PAPER_LAMBDA),
        lr: Rate::Fixed(PAPER_LR),
        kl: 0.0,
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
    pub lr: Rate,
    /// Weight, beside the loss, of the Kullback-Leibler divergence from the unedited model at
    /// places of the prompts; 0: it is not looked at.
    pub kl: f64,
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
            method if !method.gated() => (0.0, 0.0),
            _ if self.sparsity == Sparsity::Path => return Plan::path(self.steps, &PATH),
            _ => (self.recipe.learn, self.recipe.prune),
        };
        Plan::new(self.steps, learn, prune)
    }

    /// The shares of the gates that a stage of this level closes; `None` where λ says it.
    pub fn target(&self, level: usize) -> Option<ClosedShares> {
        match self.sparsity {
            Sparsity::Path => Some(LEVELS[level]),
            Sparsity::Target(shares) => Some(shares),
            Sparsity::Lambda(_) => None,
        }
    }

    /// Whether the rate of a polish phase falls in cycles, and the mean of their ends counts.
    pub(super) fn cyclic(&self) -> bool {
        self.recipe.hold && !matches!(self.method, Method::Lofit { .. })
    }

    /// What the learning rate is multiplied by once the gates of a stage of this level are fixed:
    /// few vectors have further to move than many, and a step of AdamW moves every number by the
    /// rate, so that what it does grows with their count.
    pub fn boost(&self, level: usize) -> f64 {
        self.open_share(level).powf(-BOOST)
    }

    /// What the divergence from the unedited model counts for at this place of a run: once gates
    /// close, less by the share of those that are to stay open. At the same weight a sparse edit
    /// goes less far and learns less of the task (`research/recipe.md`).
    pub(super) fn divergence_weight(&self, place: Place) -> f64 {
        match place.phase {
            Phase::Learn => self.kl,
            Phase::Prune | Phase::Polish => self.kl * self.open_share(place.level),
        }
    }

    /// The share of the gates that a stage of this level leaves open; 1 where λ says it, and
    /// without gates.
    pub(super) fn open_share(&self, level: usize) -> f64 {
        let shares = self.target(level).filter(|_| self.method.gated());
        shares.map_or(1.0, ClosedShares::open)
    }

    /// A path, where it can be taken: it needs steps, and validation rows that tell its stages
    /// apart. Elsewhere all gates stay open, since nothing says what closing them would cost.
    pub fn path(steps: usize, n_valid: usize) -> Sparsity {
        match steps >= SHORTEST_PATH && n_valid >= PATH_ROWS {
            true => Sparsity::Path,
            false => Sparsity::Target(LEVELS[0]),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// With ten an edit was written that had lost 19 points (`research/recipe.md`).
    #[test]
    fn few_validation_rows_close_no_gate() {
        let dense = Sparsity::Target(ClosedShares::both(0.0));
        assert_eq!(Settings::path(SHORTEST_PATH, PATH_ROWS), Sparsity::Path);
        assert_eq!(Settings::path(1000, PATH_ROWS - 1), dense);
        assert_eq!(Settings::path(SHORTEST_PATH - 1, 1000), dense);
    }

    #[test]
    fn the_divergence_counts_less_once_few_gates_are_to_stay_open() {
        let settings = |method, sparsity| Settings {
            method,
            sparsity,
            steps: 100,
            batch_size: 4,
            lr: Rate::Auto,
            kl: 2.0,
            gate_lr: None,
            patience: 0,
            seed: 0,
            recomputed: 0,
            recipe: Recipe::DEFAULT,
        };
        let weights = |settings: Settings| {
            let plan = settings.plan();
            [0, 30, 50, 99].map(|step| settings.divergence_weight(plan.place(step)))
        };
        let open = SHARES.open();
        let path = settings(Method::Jola, Sparsity::Path);
        assert_eq!(
            weights(path),
            [2.0, 2.0, 2.0 * open, 2.0 * LEVELS[PATH[2]].open()]
        );
        let fixed = settings(Method::Jola, Sparsity::Target(SHARES));
        assert_eq!(weights(fixed), [2.0, 2.0 * open, 2.0 * open, 2.0 * open]);
        let ungated = settings(Method::Ungated, Sparsity::Path);
        assert_eq!(weights(ungated), [2.0; 4]);
    }
}
