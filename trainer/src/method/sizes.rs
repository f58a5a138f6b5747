//! How much a method trains, worked out without the model's weights.

use tch::{Device, Tensor};

use super::edits::Edits;
use super::init::Init;
use super::methods::Method;
use crate::base::Base;
use crate::model::{Config, Precision};

/// How many numbers are trained, and how many of them are gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Numbers that are trained, gates among them.
    pub trainable: usize,
    /// How many of them are gates.
    pub gates: usize,
}

impl Sizes {
    /// Of `method` on this base.
    pub fn new(
        method: &Method,
        base: &dyn Base,
        config: &Config,
        precision: Precision,
        init: Init,
    ) -> Sizes {
        if let Method::Lora(lora) = method {
            return Sizes {
                trainable: lora.n_trainable(base, config.n_layer),
                gates: 0,
            };
        }
        let sizes = [config.n_layer as i64, config.n_head as i64];
        let head_rms = Tensor::ones(sizes, (precision.math, Device::Cpu));
        // Values do not count, so that any seed will do.
        let edits = Edits::new(method.clone(), config.head_dim, &head_rms, init, 0);
        Sizes {
            trainable: edits.n_trainable(),
            gates: if method.gated() { edits.n_gates() } else { 0 },
        }
    }
}
