//! The L0 penalty, λ · Σ P(g ≠ 0), what chooses λ, and the gates' own gradient.
//!
//! With a given λ (the paper's formula) the penalty's exact gradient is added to the one that
//! the loss leaves on `log_alpha`. That one is noise for the most part: a sampled gate is 0
//! or 1 in four of five steps and then has none.
//!
//! For a target sparsity the gradient is taken in expectation instead. A gate that is open
//! with probability P makes the expected loss L(open) + (1 − P)·κ, where κ is what the loss
//! would rise by without the head's edit: to first order −Σ v·∂L/∂v over the vector v that
//! the gate lets through (Molchanov et al. 2017), known in every step, averaged over recent
//! ones. So `log_alpha` gets (λ − κ)·∂P/∂(log α). Each kind of gate, of scales and of
//! offsets, has a λ of its own: the quantile of κ below which the wanted share of the kind
//! lies. There is no controller to tune and nothing to overshoot: whatever the size of the
//! model or of its loss, only the gates that are worth least are pushed, and the others move
//! up.
//!
//! κ tends to 0 at a vector that has converged, whatever it is worth: there the gradient is 0. It
//! ranks gates all the same, because it is averaged while the raised rate moves the vectors and
//! other gates close. Integrated gradients, which do not tend to 0, ranked them worse, and so did
//! κ of many rows at fixed vectors, which tells nearly exactly what the removal of a single gate
//! costs (`research/recipe.md`).

use tch::{no_grad, Device, Kind, Tensor};

use super::state;
use crate::method::{gates, ClosedShares, Half};

/// Memory of the averaged worth: about the last 1 / (1 − MEMORY) steps.
const MEMORY: f64 = 0.95;

/// What presses on the gates in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Push {
    /// A λ for all.
    Lambda(f64),
    /// The λ of each kind at which these shares of its gates are pushed or closed.
    Target(ClosedShares),
}

/// Chooses λ step by step. Everything stays on the device.
#[derive(Debug)]
pub struct Penalty {
    /// Which half each kind of gate opens.
    halves: Vec<Half>,
    /// Averaged κ of each kind's gates, [L, H] each.
    worth: Vec<Tensor>,
    /// λ of the last step, mean over the kinds, one number.
    lambda: Tensor,
}

impl Penalty {
    /// At the start of a run on these kinds of gates ([`crate::method::Edits::kinds`]).
    pub fn new(kinds: &[(Half, &Tensor)]) -> Penalty {
        let zeros = |(_, la): &(Half, &Tensor)| la.detach().zeros_like();
        let worth: Vec<Tensor> = kinds.iter().map(zeros).collect();
        let lambda = worth[0].new_zeros([], kind(&worth[0]));
        Penalty {
            halves: kinds.iter().map(|(half, _)| *half).collect(),
            worth,
            lambda,
        }
    }

    /// Takes note of what the gates of each kind were worth in a step, [L, H] each
    /// ([`crate::method::Edits::worth`]).
    pub fn observe(&mut self, worth: &[Tensor]) {
        no_grad(|| {
            for (average, new) in self.worth.iter_mut().zip(worth) {
                let new = new * (1.0 - MEMORY);
                let _ = average.g_mul_scalar_(MEMORY).g_add_(&new);
            }
        });
    }

    /// Completes the gradient that the loss has left on `log_alphas`.
    pub fn add_gradient(&mut self, log_alphas: &[&Tensor], push: Push) {
        no_grad(|| {
            let mut lambdas = Vec::new();
            let kinds = self.halves.iter().zip(&self.worth);
            for (log_alpha, (&half, worth)) in log_alphas.iter().zip(kinds) {
                let slope = slope(log_alpha);
                let mut gradient = log_alpha.grad();
                lambdas.push(match push {
                    Push::Lambda(lambda) => {
                        let lambda = slope.new_full([], lambda, kind(&slope));
                        let _ = gradient.g_add_(&(slope * &lambda));
                        lambda
                    }
                    Push::Target(target) => {
                        let closed = gates::deterministic(&log_alpha.detach()).eq(0.0);
                        let lambda = lambda_above(&closed, worth, target.of(half));
                        let pushed = (&lambda - worth) * slope;
                        gradient.copy_(&pushed.masked_fill(&closed, 0.0));
                        lambda
                    }
                });
            }
            self.lambda = Tensor::stack(&lambdas, 0).mean(None);
        });
    }

    /// λ of the last step, mean over the kinds, one number.
    pub fn lambda(&self) -> &Tensor {
        &self.lambda
    }

    /// Everything needed to continue exactly. Copies, not views.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let worth = self.worth.iter().enumerate();
        worth
            .map(|(i, worth)| (format!("penalty.worth.{i}"), worth.copy()))
            .collect()
    }

    /// Puts a [`state`](Self::state) back.
    ///
    /// # Errors
    /// [`crate::Error::State`] when a tensor is missing or has another shape.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), crate::Error> {
        for (i, worth) in self.worth.iter_mut().enumerate() {
            let name = format!("penalty.worth.{i}");
            worth.copy_(state::find(state, &name, &worth.size(), worth.kind())?);
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

/// The λ that the `share` of the gates that are worth least do not exceed, one number. It may
/// be negative: where all gates of a kind seem to do harm for a while, as when their vectors
/// overshoot, no more of them are pushed than was asked for. Gates that are closed already
/// come first: they count towards the share, and what they were worth does not move λ.
fn lambda_above(closed: &Tensor, worth: &Tensor, share: f64) -> Tensor {
    let masked = worth.masked_fill(closed, f64::NEG_INFINITY).flatten(0, -1);
    // Of the open ones the least, and finite where all are closed: λ enters the gradient.
    let least = worth.masked_fill(closed, f64::INFINITY).min();
    let lowest = least.minimum(&worth.max());
    match (masked.numel() as f64 * share).round() as i64 {
        0 => lowest,
        count => masked.kthvalue(count, 0, false).0.maximum(&lowest),
    }
}

fn kind(tensor: &Tensor) -> (Kind, Device) {
    (tensor.kind(), tensor.device())
}

/// ∂P(g ≠ 0)/∂(log α) of each gate.
fn slope(log_alpha: &Tensor) -> Tensor {
    let open = gates::open_probability(&log_alpha.detach());
    &open * (1f64 - &open)
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Gates on which the loss has left `gradient`.
    fn gates(log_alpha: &[f64], gradient: &[f64]) -> Tensor {
        let leaf = Tensor::from_slice(log_alpha)
            .view([1, -1])
            .set_requires_grad(true);
        (&leaf * Tensor::from_slice(gradient))
            .sum(Kind::Double)
            .backward();
        leaf
    }

    /// The gradient that a target leaves on open gates of these worths.
    fn pushed(
        shares: ClosedShares,
        log_alphas: &[&Tensor],
        worth: &[&[f64]],
    ) -> (Vec<Vec<f64>>, f64) {
        let worth: Vec<Tensor> = worth
            .iter()
            .map(|worth| Tensor::from_slice(worth).view([1, -1]))
            .collect();
        let halves = [Half::Scale, Half::Offset].into_iter();
        let kinds: Vec<_> = halves.zip(log_alphas.iter().copied()).collect();
        let mut penalty = Penalty::new(&kinds);
        penalty.observe(&worth);
        penalty.add_gradient(log_alphas, Push::Target(shares));
        let gradients = log_alphas.iter().map(|la| values(&la.grad())).collect();
        (gradients, penalty.lambda().double_value(&[]))
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.flatten(0, -1)).unwrap()
    }

    #[test]
    fn a_given_lambda_adds_the_gradient_of_the_papers_formula() {
        let leaf = gates(&[0.0, 1.0, -3.0], &[0.5, 0.0, -0.5]);
        let mut penalty = Penalty::new(&[(Half::Scale, &leaf)]);
        penalty.add_gradient(&[&leaf], Push::Lambda(0.1));
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
    fn a_target_pushes_just_the_gates_that_are_worth_least() {
        // Without gates 0 and 3 the loss would rise, without gate 4 it would fall. What one
        // sampled step left on the gates does not count.
        let leaf = gates(&[1.0; 5], &[9.0, -9.0, 9.0, -9.0, 9.0]);
        let (gradients, lambda) = pushed(
            ClosedShares::both(0.6),
            &[&leaf],
            &[&[0.4, 0.0, 0.01, 0.3, -0.2]],
        );
        let down: Vec<bool> = gradients[0].iter().map(|g| *g > 0.0).collect();
        // Gate 2 is the quantile itself and rests.
        assert_eq!(down, [false, true, false, false, true]);
        assert_eq!(gradients[0][2], 0.0);
        assert!(lambda > 0.0);
    }

    #[test]
    fn each_kind_has_its_share_however_much_the_other_is_worth() {
        let halves = [gates(&[1.0; 4], &[0.0; 4]), gates(&[1.0; 4], &[0.0; 4])];
        let worth: [&[f64]; 2] = [&[0.01, 0.02, 0.03, 0.04], &[1.0, 2.0, 3.0, 4.0]];
        let halves = [&halves[0], &halves[1]];
        let (gradients, _) = pushed(ClosedShares::both(0.5), &halves, &worth);
        for gradient in gradients {
            assert!(gradient[0] > 0.0 && gradient[2] < 0.0 && gradient[3] < 0.0);
        }
        let shares = ClosedShares {
            scale: 0.5,
            offset: 0.75,
        };
        let (gradients, _) = pushed(shares, &halves, &worth);
        // The quantile itself rests.
        let (scale, offset) = (&gradients[0], &gradients[1]);
        assert!(
            scale[0] > 0.0 && scale[1] == 0.0 && scale[2] < 0.0,
            "{scale:?}"
        );
        assert!(
            offset[1] > 0.0 && offset[2] == 0.0 && offset[3] < 0.0,
            "{offset:?}"
        );
    }

    #[test]
    fn gates_that_all_seem_to_do_harm_are_not_all_pushed() {
        let leaf = gates(&[1.0; 4], &[0.0; 4]);
        let (gradients, lambda) = pushed(
            ClosedShares::both(0.5),
            &[&leaf],
            &[&[-0.4, -0.3, -0.2, -0.1]],
        );
        let down: Vec<bool> = gradients[0].iter().map(|g| *g > 0.0).collect();
        assert_eq!(down, [true, false, false, false]);
        assert!(lambda < 0.0);
    }

    /// What a closed gate was worth once says nothing, and a λ below zero does not open it.
    #[test]
    fn closed_gates_stay_closed_and_do_not_move_lambda() {
        let leaf = gates(&[-3.0, -3.0, 1.0, 1.0], &[0.0; 4]);
        let worth = [0.0, -5.0, -0.2, -0.1];
        let (gradients, lambda) = pushed(ClosedShares::both(0.5), &[&leaf], &[&worth]);
        assert!((lambda * 20.0 + 0.2).abs() < 1e-12, "{lambda}");
        assert_eq!(gradients[0][..3], [0.0; 3]);
        assert!(gradients[0][3] < 0.0, "{gradients:?}");
    }

    #[test]
    fn closed_gates_count_towards_the_target() {
        let leaf = gates(&[-3.0, -3.0, 1.0, 1.0], &[0.0; 4]);
        let (gradients, _) = pushed(ClosedShares::both(0.5), &[&leaf], &[&[1.0, 1.0, 0.2, 0.1]]);
        assert!(gradients[0][2..].iter().all(|g| *g <= 0.0), "{gradients:?}");
    }
}
