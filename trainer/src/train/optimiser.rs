//! AdamW for a handful of stacked tensors, with parameter groups.
//!
//! All arithmetic stays on the parameters' device: a step never waits for it.

use tch::{no_grad, Kind, Tensor};

use super::state::find;

/// Settings shared by all groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// The gradients of each group are scaled so that their common norm is at most this.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }
}

/// One parameter with its moments.
#[derive(Debug)]
struct Slot {
    name: String,
    group: usize,
    parameter: Tensor,
    moment: Tensor,
    variance: Tensor,
    updates: i64,
}

/// The optimiser: parameters in groups, each group with its own learning rate.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
}

impl AdamW {
    /// An optimiser without parameters.
    pub fn new(config: AdamWConfig) -> AdamW {
        AdamW {
            config,
            slots: Vec::new(),
        }
    }

    /// Adds a leaf tensor that requires a gradient, under a unique name.
    pub fn add(&mut self, name: impl Into<String>, group: usize, parameter: &Tensor) {
        self.slots.push(Slot {
            name: name.into(),
            group,
            parameter: parameter.shallow_clone(),
            moment: parameter.zeros_like().detach(),
            variance: parameter.zeros_like().detach(),
            updates: 0,
        });
    }

    /// Removes the gradients of all parameters.
    pub fn zero_grad(&mut self) {
        for slot in &mut self.slots {
            slot.parameter.zero_grad();
        }
    }

    /// One update. `learning_rates[g]` belongs to group `g`; parameters of a group whose
    /// rate is zero, and parameters without a gradient, are left alone.
    pub fn step(&mut self, learning_rates: &[f64]) {
        let AdamWConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
            max_grad_norm,
        } = self.config;
        no_grad(|| {
            let mut active: Vec<(&mut Slot, Tensor)> = self
                .slots
                .iter_mut()
                .filter(|slot| learning_rates[slot.group] != 0.0)
                .map(|slot| {
                    let gradient = slot.parameter.grad();
                    (slot, gradient)
                })
                .filter(|(_, gradient)| gradient.defined())
                .collect();
            let clips: Vec<Option<Tensor>> = (0..learning_rates.len())
                .map(|group| {
                    let members = active.iter().filter(|(slot, _)| slot.group == group);
                    let norm = norm(members.map(|(_, gradient)| gradient))?;
                    Some((max_grad_norm / (norm + 1e-6)).clamp_max(1.0))
                })
                .collect();
            for (slot, gradient) in &mut active {
                let rate = learning_rates[slot.group];
                let gradient = match &clips[slot.group] {
                    Some(clip) => &*gradient * clip,
                    None => continue,
                };
                slot.updates += 1;
                let _ = slot
                    .moment
                    .g_mul_scalar_(beta1)
                    .g_add_(&(&gradient * (1.0 - beta1)));
                let _ = slot
                    .variance
                    .g_mul_scalar_(beta2)
                    .g_add_(&(gradient.square() * (1.0 - beta2)));
                let correction1 = 1.0 - beta1.powi(slot.updates as i32);
                let correction2 = 1.0 - beta2.powi(slot.updates as i32);
                let denominator = (&slot.variance / correction2).sqrt() + eps;
                let update = &slot.moment / denominator * (rate / correction1);
                let _ = slot
                    .parameter
                    .g_mul_scalar_(1.0 - rate * weight_decay)
                    .g_sub_(&update);
            }
        });
    }

    /// Everything needed to continue exactly: per parameter its value, both moments and
    /// the number of updates (one int64), named `NAME.value`, `NAME.moment`,
    /// `NAME.variance` and `NAME.updates`. Copies, not views.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::with_capacity(self.slots.len() * 4);
        for slot in &self.slots {
            let parts = [
                ("value", slot.parameter.detach().copy()),
                ("moment", slot.moment.copy()),
                ("variance", slot.variance.copy()),
                ("updates", Tensor::from_slice(&[slot.updates])),
            ];
            state.extend(parts.map(|(part, tensor)| (format!("{}.{part}", slot.name), tensor)));
        }
        state
    }

    /// Copies of all parameters, by name.
    pub fn values(&self) -> Vec<(String, Tensor)> {
        let value = |slot: &Slot| (slot.name.clone(), slot.parameter.detach().copy());
        self.slots.iter().map(value).collect()
    }

    /// Puts a [`state`](Self::state) back.
    ///
    /// # Errors
    /// [`crate::Error::State`] when a tensor is missing or has another shape; nothing is
    /// changed then.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), crate::Error> {
        let mut found = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let (shape, kind) = (slot.parameter.size(), slot.parameter.kind());
            let part = |part| find(state, &format!("{}.{part}", slot.name), &shape, kind);
            let updates = format!("{}.updates", slot.name);
            found.push((
                part("value")?,
                part("moment")?,
                part("variance")?,
                find(state, &updates, &[1], Kind::Int64)?,
            ));
        }
        no_grad(|| {
            for (slot, (value, moment, variance, updates)) in self.slots.iter_mut().zip(found) {
                slot.parameter.copy_(value);
                slot.moment.copy_(moment);
                slot.variance.copy_(variance);
                slot.updates = updates.int64_value(&[0]);
            }
        });
        Ok(())
    }
}

/// The Euclidean norm over several tensors as one number on their device; `None` without any.
fn norm<'a>(gradients: impl Iterator<Item = &'a Tensor>) -> Option<Tensor> {
    gradients
        .map(|gradient| gradient.square().sum(gradient.kind()))
        .reduce(|sum, square| sum + square)
        .map(|sum| sum.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.detach()).unwrap()
    }

    /// Sets the gradient of `p` to `g` through a dot product.
    fn set_grad(p: &Tensor, g: &[f64]) {
        (p * Tensor::from_slice(g)).sum(Kind::Double).backward();
    }

    #[test]
    fn two_steps_equal_the_formula() {
        let config = AdamWConfig {
            weight_decay: 0.1,
            max_grad_norm: 2.0,
            ..Default::default()
        };
        let mut optim = AdamW::new(config);
        let p = Tensor::from_slice(&[1.0f64, -2.0]).set_requires_grad(true);
        let q = Tensor::from_slice(&[0.5f64]).set_requires_grad(true);
        optim.add("p", 0, &p);
        optim.add("q", 1, &q);
        // Reference in plain arithmetic.
        let (mut x, rates) = ([1.0f64, -2.0, 0.5], [0.01, 0.01, 0.5]);
        let (mut m, mut v) = ([0.0f64; 3], [0.0f64; 3]);
        for (t, gradient) in [[3.0, -4.0, 12.0], [0.1, 0.2, -0.3]].iter().enumerate() {
            optim.zero_grad();
            set_grad(&p, &gradient[..2]);
            set_grad(&q, &gradient[2..]);
            optim.step(&[0.01, 0.5]);
            let norms = [f64::hypot(gradient[0], gradient[1]), gradient[2].abs()];
            for i in 0..3 {
                let g = gradient[i] * (2.0 / (norms[i / 2] + 1e-6)).min(1.0);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let mh = m[i] / (1.0 - 0.9f64.powi(t as i32 + 1));
                let vh = v[i] / (1.0 - 0.999f64.powi(t as i32 + 1));
                x[i] = x[i] * (1.0 - rates[i] * 0.1) - rates[i] * mh / (vh.sqrt() + 1e-8);
            }
        }
        for (ours, reference) in values(&p).iter().chain(&values(&q)).zip(x) {
            assert!((ours - reference).abs() < 1e-12, "{ours} {reference}");
        }
    }

    #[test]
    fn zero_rate_and_missing_gradient_leave_a_parameter_alone() {
        let mut optim = AdamW::new(AdamWConfig::default());
        let p = Tensor::from_slice(&[1.0f64]).set_requires_grad(true);
        let q = Tensor::from_slice(&[2.0f64]).set_requires_grad(true);
        optim.add("p", 0, &p);
        optim.add("q", 1, &q);
        optim.step(&[0.1, 0.1]);
        set_grad(&p, &[1.0]);
        optim.step(&[0.0, 0.1]);
        assert_eq!((values(&p), values(&q)), (vec![1.0], vec![2.0]));
    }

    #[test]
    fn state_round_trip_continues_exactly() {
        let build = || {
            let mut optim = AdamW::new(AdamWConfig::default());
            let p = Tensor::from_slice(&[1.0f64, 2.0]).set_requires_grad(true);
            optim.add("p", 0, &p);
            (optim, p)
        };
        let update = |optim: &mut AdamW, p: &Tensor, g: &[f64]| {
            optim.zero_grad();
            set_grad(p, g);
            optim.step(&[0.05]);
        };
        let (mut a, pa) = build();
        update(&mut a, &pa, &[0.3, -0.2]);
        let (mut b, pb) = build();
        b.load_state(&a.state()).unwrap();
        update(&mut a, &pa, &[-0.1, 0.7]);
        update(&mut b, &pb, &[-0.1, 0.7]);
        assert_eq!(values(&pa), values(&pb));

        let mut wrong = a.state();
        wrong[1].1 = Tensor::from_slice(&[0.0f64]);
        assert!(b
            .load_state(&wrong)
            .unwrap_err()
            .to_string()
            .contains("p.moment"));
        assert!(b
            .load_state(&wrong[..0])
            .unwrap_err()
            .to_string()
            .contains("missing"));
    }
}
