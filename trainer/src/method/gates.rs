//! The hard-concrete gate (Louizos et al. 2018), with the constants that JoLA uses.
//!
//! A gate is a number in [0, 1] controlled by one parameter, `log_alpha`. With the paper's
//! formula it is random while it learns, so that the chance of being exactly zero has a
//! gradient; afterwards, and all along where that gradient is taken in expectation
//! (by the penalty of a target), it has its deterministic value, which is exactly 0 for
//! `log_alpha` ≤ −2.398 and exactly 1 for `log_alpha` ≥ 2.398.

use tch::{Kind, Tensor};

use crate::readings;

/// Temperature β of the concrete distribution.
pub const BETA: f64 = 0.33;
/// Lower end γ of the stretched interval.
pub const GAMMA: f64 = -0.1;
/// Upper end ζ of the stretched interval.
pub const ZETA: f64 = 1.1;
/// The noise is drawn from `(NOISE_MARGIN, 1 − NOISE_MARGIN)`.
pub const NOISE_MARGIN: f64 = 1e-6;

/// Stretches `s` in (0, 1) to (γ, ζ) and clamps it to [0, 1].
fn stretch(s: &Tensor) -> Tensor {
    (s * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)
}

/// Random gates for one forward pass.
///
/// `log_alpha` and `noise` have the same shape; `noise` is uniform in (0, 1) and is
/// moved inside [`NOISE_MARGIN`]. The result has a gradient with respect to
/// `log_alpha` wherever it was not clamped.
pub fn sample(log_alpha: &Tensor, noise: &Tensor) -> Tensor {
    let u = noise.clamp(NOISE_MARGIN, 1.0 - NOISE_MARGIN);
    let logit = u.log() - (1f64 - &u).log();
    stretch(&((logit + log_alpha) / BETA).sigmoid())
}

/// The gates' values after training, same shape as `log_alpha`.
pub fn deterministic(log_alpha: &Tensor) -> Tensor {
    stretch(&log_alpha.sigmoid())
}

/// P(g ≠ 0) of each gate, same shape as `log_alpha`: the L0 penalty is its sum.
pub fn open_probability(log_alpha: &Tensor) -> Tensor {
    (log_alpha - BETA * (-GAMMA / ZETA).ln()).sigmoid()
}

/// `log_alpha` at and below which the deterministic gate is exactly zero: logit(−γ/(ζ−γ)).
pub fn closing_log_alpha() -> f64 {
    let p = -GAMMA / (ZETA - GAMMA);
    (p / (1.0 - p)).ln()
}

/// `log_alpha` at and above which the deterministic gate is exactly one.
pub fn opening_log_alpha() -> f64 {
    -closing_log_alpha()
}

/// A `log_alpha` at which a gate is surely closed.
pub(super) fn closed_log_alpha() -> f64 {
    closing_log_alpha() - 1.0
}

/// A `log_alpha` at which a gate is surely open.
pub(super) fn open_log_alpha() -> f64 {
    opening_log_alpha() + 1.0
}

/// How many gates have a deterministic value above zero (reads from the device).
pub fn count_open(log_alpha: &Tensor) -> usize {
    let open = deterministic(log_alpha).gt(0.0).sum(Kind::Int64);
    readings::counts(&open)[0] as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    #[test]
    fn open_probability_is_the_closed_form() {
        let log_alpha = Tensor::from_slice(&[-4.0f64, -0.791, 0.0, 2.5]);
        for (p, la) in values(&open_probability(&log_alpha))
            .iter()
            .zip(values(&log_alpha))
        {
            let expected = 1.0 / (1.0 + (-(la + 0.33 * 11f64.ln())).exp());
            assert!((p - expected).abs() < 1e-12, "{p} {expected}");
        }
    }

    #[test]
    fn deterministic_gate_is_exact_at_both_ends() {
        let edge = closing_log_alpha();
        assert!((edge + 2.398).abs() < 1e-3);
        let log_alpha =
            Tensor::from_slice(&[edge - 1e-3, edge + 1e-3, 0.0, -edge - 1e-3, -edge + 1e-3]);
        let g = values(&deterministic(&log_alpha));
        assert_eq!(g[0], 0.0);
        assert!(g[1] > 0.0 && g[1] < 1e-3);
        assert!((g[2] - 0.5).abs() < 1e-12);
        assert!(g[3] < 1.0 && g[3] > 1.0 - 1e-3);
        assert_eq!(g[4], 1.0);
        assert_eq!(count_open(&log_alpha), 4);
    }

    #[test]
    fn samples_have_the_right_zeros_and_mean() {
        tch::manual_seed(7);
        let n = 400_000;
        for la in [-2.0f64, 0.0, 1.5] {
            let noise = Tensor::rand([n], (Kind::Double, Device::Cpu));
            let g = sample(&Tensor::from(la), &noise);
            let open = g
                .gt(0.0)
                .to_kind(Kind::Double)
                .mean(Kind::Double)
                .double_value(&[]);
            let expected = open_probability(&Tensor::from(la)).double_value(&[]);
            assert!(
                (open - expected).abs() < 4e-3,
                "log_alpha {la}: {open} {expected}"
            );
            // Mean by quadrature over the noise, independently of torch.
            let steps = 200_000;
            let quadrature = (0..steps)
                .map(|i| {
                    let u = (i as f64 + 0.5) / steps as f64;
                    let s = 1.0 / (1.0 + (-((u / (1.0 - u)).ln() + la) / 0.33).exp());
                    (s * 1.2 - 0.1).clamp(0.0, 1.0)
                })
                .sum::<f64>()
                / steps as f64;
            let mean = g.mean(Kind::Double).double_value(&[]);
            assert!(
                (mean - quadrature).abs() < 4e-3,
                "log_alpha {la}: {mean} {quadrature}"
            );
        }
    }
}
