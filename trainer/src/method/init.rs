//! Where vectors and gates begin.

use serde::Serialize;

use super::gates;
use super::half::Half;
use super::methods::Method;
use crate::rng::{Purpose, Rng};

/// The values that vectors and gates start from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Init {
    /// Standard deviation of the vectors.
    pub vector_std: f64,
    /// Value of every `log_alpha`, or the middle of them.
    pub log_alpha: f64,
    /// How far below and above `log_alpha` the values are drawn, uniformly.
    pub log_alpha_spread: f64,
    /// Offsets are in the model's own units instead of those of a head's outputs.
    pub plain_offsets: bool,
}

impl Init {
    /// Open gates, and vectors that change next to nothing.
    pub const DEFAULT: Init = Init {
        vector_std: 1e-3,
        log_alpha: 2.0,
        log_alpha_spread: 0.0,
        plain_offsets: false,
    };

    /// Where the gates [L, H] of a half stand at first. Without gates that learn they say
    /// which heads are edited: those far above the value that opens a gate fully.
    pub(super) fn log_alphas(
        &self,
        method: &Method,
        half: Half,
        [n_layer, n_head]: [i64; 2],
        seed: u64,
    ) -> Vec<f64> {
        let mut rng = Rng::new(seed, Purpose::InitGates, half as u64);
        let (open, closed) = (gates::open_log_alpha(), gates::closed_log_alpha());
        let mut of_layer = |layer: i64| match method {
            Method::Lofit { .. } if half == Half::Offset => closed,
            Method::Layerwise { layers } if !layers.contains(&(layer as usize)) => closed,
            _ if method.gated() => {
                self.log_alpha + self.log_alpha_spread * (2.0 * rng.uniform() - 1.0)
            }
            _ => open,
        };
        let gates = (0..n_layer * n_head).map(|gate| of_layer(gate / n_head));
        gates.collect()
    }
}
