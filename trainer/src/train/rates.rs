//! The learning rates of a step.

use super::recipe::Recipe;
use super::schedule::{warmup_cosine, Phase, Place, Plan};
use super::settings::Settings;
use crate::method::{gates, Method};

/// The learning rates of a run.
pub(super) struct LearningRates<'a> {
    settings: &'a Settings,
    plan: &'a Plan,
    /// The rate at its peak, of what is learned for the task.
    peak: f64,
    /// In how many cycles the rate falls in the polish phase.
    cycles: usize,
}

impl<'a> LearningRates<'a> {
    /// For steps of a run of these settings and phases.
    pub fn new(
        settings: &'a Settings,
        plan: &'a Plan,
        peak: f64,
        cycles: usize,
    ) -> LearningRates<'a> {
        LearningRates {
            settings,
            plan,
            peak,
            cycles,
        }
    }

    /// Learning rate of what is learned for the task in step `step`.
    pub fn weights(&self, step: usize) -> f64 {
        self.peak * self.factor(step)
    }

    /// Learning rate of the gates in step `step`; 0 where they do not learn.
    pub fn gates(&self, step: usize) -> f64 {
        let place = self.plan.place(step);
        match place.phase {
            _ if self.settings.recipe.joint => self.weights(step),
            Phase::Prune => self.closing_rate(place),
            Phase::Learn | Phase::Polish => 0.0,
        }
    }

    /// What the learning rate of the weights is multiplied by. LoFiT's two stages have a
    /// schedule each.
    fn factor(&self, step: usize) -> f64 {
        let Settings {
            ref method,
            recipe,
            steps,
            ..
        } = *self.settings;
        let place = self.plan.place(step);
        let cosine = |done: usize, span: usize, warmup: usize| {
            warmup_cosine(done, span, warmup, recipe.lr_floor)
        };
        let warmup = |steps: usize| (steps as f64 * recipe.warmup).round() as usize;
        if matches!(method, Method::Lofit { .. }) {
            return cosine(place.done, place.span, warmup(place.span));
        }
        if !recipe.hold {
            return cosine(step, steps, warmup(steps));
        }
        let warmup = warmup(steps);
        match place.phase {
            Phase::Polish => {
                let (done, span) = place.in_cycle(self.cycles);
                let left = warmup.saturating_sub(step - done);
                self.settings.boost(place.level) * cosine(done, span, left)
            }
            _ => ((step + 1) as f64 / warmup.max(1) as f64).min(1.0),
        }
    }

    /// The rate that closes a gate within its part of the prune phase. Adam moves a gate that is
    /// pushed steadily by the rate in every step.
    fn closing_rate(&self, place: Place) -> f64 {
        let Recipe { closing, init, .. } = self.settings.recipe;
        let distance = init.log_alpha - gates::closing_log_alpha();
        let steps = (place.span as f64 * closing).max(1.0);
        self.settings.gate_lr.unwrap_or(distance / steps)
    }
}
