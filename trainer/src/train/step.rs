//! One optimiser step of a run: loss, penalty, update, and gates that are due.

use tch::Tensor;

use super::gradient::{backward, Losses};
use super::penalty::{add_l1_gradient, Push};
use super::rates::LearningRates;
use super::schedule::{ramp, Phase, Place};
use super::settings::Settings;
use super::trainer::Trainer;
use super::unread_steps::UnreadStep;
use crate::method::{ClosedShares, Method, ParameterGroup, Sparsity};

impl Trainer<'_> {
    /// One optimiser step. Its numbers stay on the device.
    pub(super) fn step(&mut self, step: usize, place: Place, rate: f64) {
        let Settings { recipe, seed, .. } = *self.settings;
        let phase = place.phase;
        let (rows, device) = (self.sampler.rows(step), self.model.device());
        let batch = match &self.calibration.prompts {
            Some(prompts) => {
                let epoch = step / self.sampler.steps_per_epoch();
                let weight = self.settings.divergence_weight(place);
                self.train
                    .pack_beside(&rows, (prompts, epoch), weight, device)
            }
            None => self.train.pack(&rows, device),
        };
        let noise = self.settings.sparsity.sampled().then_some((seed, step));
        let changes = self.parameters.training_changes(noise);
        let trained = changes.iter().any(|change| !change.is_empty());
        let losses = backward(self.model, &batch, &changes, self.settings.recomputed);
        let Losses { task: loss, kl } = losses;
        let rates = LearningRates::new(self.settings, &self.plan, rate, self.cycles(place.stage));
        let (rate, gate_rate) = (rates.weights(step), rates.gates(step));
        let mut lambda = None;
        // Otherwise every gate is closed.
        if trained {
            lambda = self.add_penalty(step, place);
            let mut rates = [0.0; 2];
            rates[ParameterGroup::Weights as usize] = rate;
            rates[ParameterGroup::Gates as usize] = gate_rate;
            self.optim.step(&rates);
            self.optim.zero_grad();
            if phase == Phase::Prune {
                let late = ramp(place.progress() - recipe.closing, recipe.ramp);
                let due = self.closed_shares(place.level, late);
                if let (Some(due), Some(edits)) = (due, self.parameters.edits_mut()) {
                    edits.close_to(due);
                }
            }
        }
        self.counters.step = step + 1;
        self.counters.tokens += batch.n_tokens();
        self.unread.push(UnreadStep {
            step,
            phase,
            lr: rate,
            gate_lr: gate_rate,
            tokens: batch.n_tokens(),
            loss,
            kl,
            lambda,
            open: Vec::new(),
        });
    }

    /// The shares of the gates to close when `part` of the way to a level has been gone; `None`
    /// where λ says it.
    fn closed_shares(&self, level: usize, part: f64) -> Option<ClosedShares> {
        Some(self.settings.target(level)?.part(part))
    }

    /// Adds the penalty's gradient to that of the task; returns its λ.
    fn add_penalty(&mut self, step: usize, place: Place) -> Option<Tensor> {
        let phase = place.phase;
        let edits = self.parameters.edits()?;
        if let (Method::Lofit { l1, .. }, Phase::Learn) = (&edits.method, phase) {
            add_l1_gradient(&edits.halves[0].vectors, *l1);
            return Some(Tensor::from(*l1));
        }
        let ramp = ramp(place.progress(), self.settings.recipe.ramp);
        let target = self.closed_shares(place.level, ramp);
        let penalty = self.penalty.as_mut()?;
        if phase != Phase::Polish && !self.settings.sparsity.sampled() {
            penalty.observe(&edits.worth());
        }
        if phase != Phase::Prune {
            return None;
        }
        let push = match (target, self.settings.sparsity) {
            (Some(target), _) => Push::Target(target),
            (None, Sparsity::Lambda(lambda)) => {
                let decay = (-self.settings.recipe.lambda_decay * step as f64).exp();
                Push::Lambda(lambda * ramp * decay)
            }
            (None, _) => return None,
        };
        penalty.add_gradient(&edits.log_alphas(), push);
        Some(penalty.lambda().copy())
    }
}
