//! The L0 penalty, λ · Σ P(g ≠ 0), and what chooses λ.

use tch::{no_grad, Device, Kind, Tensor};

use crate::gates;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sparsity {
    /// Share of the gates to close, in [0, 1): λ is found while training.
    Target(f64),
    /// The paper's formula with this λ, raised linearly over the ramp.
    Lambda(f64),
}

/// λ when the search for it begins. The search is multiplicative, so it leaves any start
/// within a few steps.
const FIRST_LAMBDA: f64 = 1e-5;
/// Change of ln λ per step for a share of closed gates that is off by 1.
const GAIN: f64 = 1.5;

/// Chooses λ step by step. It lives on the device: reading it is never needed to train.
#[derive(Debug)]
pub struct Penalty {
    sparsity: Sparsity,
    /// ln λ, one float64; not used with a given λ
    log_lambda: Tensor,
}

impl Penalty {
    /// A controller at its start.
    pub fn new(sparsity: Sparsity, device: Device) -> Penalty {
        let log_lambda = Tensor::from_slice(&[FIRST_LAMBDA.ln()]).squeeze().to_device(device);
        Penalty { sparsity, log_lambda }
    }

    /// The penalty for these gates (each [layers, heads]), a number with a gradient.
    ///
    /// `target` is the share of closed gates aimed at now and `ramp` in [0, 1] how far a
    /// given λ has been raised. Moves λ: up while too few gates are closed, down otherwise.
    /// A gate counts as closed by 1 minus its deterministic value, so that λ answers while
    /// gates are still on their way.
    pub fn apply(&mut self, log_alphas: &[&Tensor], target: f64, ramp: f64) -> Tensor {
        let lambda = match self.sparsity {
            Sparsity::Lambda(lambda) => Tensor::from(lambda * ramp).to_device(self.log_lambda.device()),
            Sparsity::Target(_) => no_grad(|| {
                let gates: i64 = log_alphas.iter().map(|la| la.numel() as i64).sum();
                let open = sum(log_alphas, |la| gates::deterministic(la).sum(Kind::Double));
                let closed = 1.0 - open / gates as f64;
                self.log_lambda += (target - closed) * GAIN;
                self.log_lambda.exp()
            }),
        };
        let open = sum(log_alphas, |la| gates::open_probability(la).sum(la.kind()));
        lambda.to_kind(open.kind()) * open
    }

    /// λ at this moment (reads from the device); `ramp` as in [`apply`](Self::apply).
    pub fn lambda(&self, ramp: f64) -> f64 {
        match self.sparsity {
            Sparsity::Lambda(lambda) => lambda * ramp,
            Sparsity::Target(_) => self.log_lambda.double_value(&[]).exp(),
        }
    }
}

fn sum(tensors: &[&Tensor], f: impl Fn(&Tensor) -> Tensor) -> Tensor {
    tensors.iter().map(|t| f(t)).reduce(|a, b| a + b).expect("at least one set of gates")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_lambda_is_the_papers_formula() {
        let log_alpha = Tensor::from_slice(&[0.0f64, 1.0, -3.0]).view([1, 3]);
        let mut penalty = Penalty::new(Sparsity::Lambda(0.2), Device::Cpu);
        let value = penalty.apply(&[&log_alpha, &log_alpha], 0.0, 0.5).double_value(&[]);
        let p = |la: f64| 1.0 / (1.0 + (-(la + 0.33 * 11f64.ln())).exp());
        let expected = 0.1 * 2.0 * (p(0.0) + p(1.0) + p(-3.0));
        assert!((value - expected).abs() < 1e-12);
        assert_eq!(penalty.lambda(0.5), 0.1);
    }

    #[test]
    fn lambda_rises_until_the_target_is_reached_and_then_falls() {
        let open = Tensor::full([2, 5], 3.0, (Kind::Double, Device::Cpu));
        let closed = Tensor::full([2, 5], -3.0, (Kind::Double, Device::Cpu));
        let mut penalty = Penalty::new(Sparsity::Target(0.9), Device::Cpu);
        let first = penalty.lambda(1.0);
        let _ = penalty.apply(&[&open], 0.5, 1.0);
        let second = penalty.lambda(1.0);
        assert!((second / first - (0.5 * GAIN).exp()).abs() < 1e-9);
        let _ = penalty.apply(&[&closed], 0.5, 1.0);
        assert!((penalty.lambda(1.0) / first - 1.0).abs() < 1e-9);
    }
}
