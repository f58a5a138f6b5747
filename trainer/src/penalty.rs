//! The L0 penalty, λ · Σ P(g ≠ 0), and what chooses λ.
//!
//! The penalty enters as its exact gradient on `log_alpha`. For a target sparsity, λ is
//! chosen so that it outweighs the task on just the wanted share of the gates: a gate
//! resists with the force κ = −∂(loss)/∂(log α) / ∂P/∂(log α), averaged over recent steps,
//! and λ is that quantile of κ. There is no controller to tune and nothing to overshoot:
//! whatever the size of the model or of its loss, only the gates that resist least are
//! pushed, and those that the task holds open move up.

use serde::Serialize;
use tch::{no_grad, Tensor};

use crate::{gates, state};

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sparsity {
    /// Share of the gates to close, in [0, 1).
    Target(f64),
    /// The paper's formula with this λ, raised linearly over the ramp.
    Lambda(f64),
}

/// Memory of the averaged task gradient: about the last 1 / (1 − MEMORY) steps.
const MEMORY: f64 = 0.95;

/// Chooses λ step by step. Everything stays on the device.
#[derive(Debug)]
pub struct Penalty {
    sparsity: Sparsity,
    /// Averaged task gradient on each half's `log_alpha`, [L, H] each.
    task: Vec<Tensor>,
    /// λ of the last step, one number.
    lambda: Tensor,
}

impl Penalty {
    /// At the start of a run on these gates, [L, H] each.
    pub fn new(sparsity: Sparsity, log_alphas: &[&Tensor]) -> Penalty {
        let zeros = |la: &&Tensor| la.detach().zeros_like();
        let task: Vec<Tensor> = log_alphas.iter().map(zeros).collect();
        let lambda = task[0].sum(task[0].kind());
        Penalty {
            sparsity,
            task,
            lambda,
        }
    }

    /// Takes note of the task's gradient, which the loss has just left on `log_alphas`.
    pub fn observe(&mut self, log_alphas: &[&Tensor]) {
        no_grad(|| {
            for (task, log_alpha) in self.task.iter_mut().zip(log_alphas) {
                let new = log_alpha.grad() * (1.0 - MEMORY);
                let _ = task.g_mul_scalar_(MEMORY).g_add_(&new);
            }
        });
    }

    /// Adds the penalty's gradient to that of the task. `ramp` in (0, 1] is how far the
    /// target (or the given λ) has been raised.
    pub fn add_gradient(&mut self, log_alphas: &[&Tensor], ramp: f64) {
        no_grad(|| {
            let slopes: Vec<Tensor> = log_alphas.iter().map(|la| slope(la)).collect();
            self.lambda = match self.sparsity {
                Sparsity::Lambda(lambda) => self.lambda.full_like(lambda * ramp),
                Sparsity::Target(target) => {
                    let forces = log_alphas.iter().zip(&slopes).zip(&self.task);
                    let forces = forces.map(|((la, slope), task)| resistance(la, slope, task));
                    let forces = Tensor::cat(&forces.collect::<Vec<_>>(), 0);
                    let count = (forces.numel() as f64 * target * ramp).round() as i64;
                    match count {
                        0 => self.lambda.zeros_like(),
                        _ => forces.kthvalue(count, 0, false).0.clamp_min(0.0),
                    }
                }
            };
            for (log_alpha, slope) in log_alphas.iter().zip(slopes) {
                let _ = log_alpha.grad().g_add_(&(slope * &self.lambda));
            }
        });
    }

    /// λ of the last step, one number.
    pub fn lambda(&self) -> &Tensor {
        &self.lambda
    }

    /// Everything needed to continue exactly. Copies, not views.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let task = self.task.iter().enumerate();
        task.map(|(i, task)| (format!("penalty.task.{i}"), task.copy()))
            .collect()
    }

    /// Puts a [`state`](Self::state) back.
    ///
    /// # Errors
    /// [`crate::Error::State`] when a tensor is missing or has another shape.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), crate::Error> {
        for (i, task) in self.task.iter_mut().enumerate() {
            let name = format!("penalty.task.{i}");
            task.copy_(state::find(state, &name, &task.size(), task.kind())?);
        }
        Ok(())
    }
}

/// Adds the gradient of λ · Σ|v| to that of the task on `vectors`: what makes LoFiT's scales
/// rank heads.
pub fn add_l1_gradient(vectors: &Tensor, lambda: f64) {
    no_grad(|| {
        let _ = vectors.grad().g_add_(&(vectors.sign() * lambda));
    });
}

/// ∂P(g ≠ 0)/∂(log α) of each gate.
fn slope(log_alpha: &Tensor) -> Tensor {
    let open = gates::open_probability(&log_alpha.detach());
    &open * (1f64 - &open)
}

/// κ of each gate, flat; lowest for gates that are closed already, so that they stay so.
fn resistance(log_alpha: &Tensor, slope: &Tensor, task: &Tensor) -> Tensor {
    let closed = gates::deterministic(&log_alpha.detach()).eq(0.0);
    (-task / slope)
        .masked_fill(&closed, f64::NEG_INFINITY)
        .flatten(0, -1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn gates(log_alpha: &[f64], gradient: &[f64]) -> Tensor {
        let leaf = Tensor::from_slice(log_alpha)
            .view([1, -1])
            .set_requires_grad(true);
        (&leaf * Tensor::from_slice(gradient))
            .sum(Kind::Double)
            .backward();
        leaf
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.flatten(0, -1)).unwrap()
    }

    #[test]
    fn a_given_lambda_adds_the_gradient_of_the_papers_formula() {
        let leaf = gates(&[0.0, 1.0, -3.0], &[0.5, 0.0, -0.5]);
        let mut penalty = Penalty::new(Sparsity::Lambda(0.2), &[&leaf]);
        penalty.add_gradient(&[&leaf], 0.5);
        let ours = values(&leaf.grad());
        let again = leaf.detach().copy().set_requires_grad(true);
        let loss = (&again * Tensor::from_slice(&[0.5, 0.0, -0.5])).sum(Kind::Double)
            + gates::open_probability(&again).sum(Kind::Double) * 0.1;
        loss.backward();
        for (ours, autograd) in ours.iter().zip(values(&again.grad())) {
            assert!((ours - autograd).abs() < 1e-12);
        }
        assert!((penalty.lambda().double_value(&[]) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn a_target_pushes_just_the_gates_that_resist_least() {
        // The loss falls when gates 0 and 3 open further, and rises for gate 4.
        let gradient = [-0.4, 0.0, -0.01, -0.3, 0.2];
        let leaf = gates(&[1.0; 5], &gradient);
        let mut penalty = Penalty::new(Sparsity::Target(0.6), &[&leaf]);
        penalty.observe(&[&leaf]);
        penalty.add_gradient(&[&leaf], 1.0);
        let pushed_down: Vec<bool> = values(&leaf.grad()).iter().map(|g| *g > 0.0).collect();
        assert_eq!(pushed_down, [false, true, false, false, true]);
        assert!(penalty.lambda().double_value(&[]) > 0.0);
    }

    #[test]
    fn closed_gates_count_towards_the_target() {
        let leaf = gates(&[-3.0, -3.0, 1.0, 1.0], &[-1.0, -1.0, -0.2, -0.1]);
        let mut penalty = Penalty::new(Sparsity::Target(0.5), &[&leaf]);
        penalty.observe(&[&leaf]);
        penalty.add_gradient(&[&leaf], 1.0);
        assert_eq!(penalty.lambda().double_value(&[]), 0.0);
        let zeros = Tensor::zeros([1, 2], (Kind::Double, Device::Cpu));
        assert_eq!(penalty.task[0].narrow(1, 0, 2).size(), zeros.size());
    }
}
