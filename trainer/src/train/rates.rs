//! The learning rates of a step.

use super::recipe::Recipe;
use super::schedule::{warmup_cosine, Phase, Plan};
use super::settings::Settings;
use crate::method::{gates, Method};

/// The learning rates of a run.
pub(super) struct LearningRates<'a> {
    settings: &'a Settings,
    plan: Plan,
}

impl LearningRates<'_> {
    /// For a run of these settings and phases.
    pub fn new(settings: &Settings, plan: Plan) -> LearningRates<'_> {
        LearningRates { settings, plan }
    }

    /// Learning rate of what is learned for the task in step `step`.
    pub fn weights(&self, step: usize) -> f64 {
        self.settings.lr * self.factor(step)
    }

    /// Learning rate of the gates in step `step`; 0 where they do not learn.
    pub fn gates(&self, step: usize) -> f64 {
        match self.plan.phase(step) {
            _ if self.settings.recipe.joint => self.weights(step),
            Phase::Prune => self.closing_rate(),
            Phase::Learn | Phase::Polish => 0.0,
        }
    }

    /// What the learning rate of the weights is multiplied by. LoFiT's two stages have a
    /// schedule each.
    fn factor(&self, step: usize) -> f64 {
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

    /// The rate that closes a gate within its part of the prune phase. Adam moves a gate that is
    /// pushed steadily by the rate in every step.
    fn closing_rate(&self) -> f64 {
        let Recipe { closing, init, .. } = self.settings.recipe;
        let distance = init.log_alpha - gates::closing_log_alpha();
        let steps = (self.plan.prune as f64 * closing).max(1.0);
        self.settings.gate_lr.unwrap_or(distance / steps)
    }
}
