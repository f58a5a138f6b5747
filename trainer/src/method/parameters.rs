//! What a run trains, as the training loop sees it: named parameters in groups, and what
//! the model applies.

use tch::Tensor;

use crate::method::edits::{Edits, Init, LayerEdit};
use crate::method::lora::Lora;
use crate::method::methods::Method;
use crate::model::decoder::Model;
use crate::Error;

/// Groups of parameters with a learning rate each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// What is learned for the task: vectors or low-rank factors.
    Weights,
    /// What chooses heads.
    Gates,
}

/// The parameters of a run.
#[derive(Debug)]
pub enum Trained {
    /// Edits of head outputs.
    Edits(Edits),
    /// Low-rank changes of matrices.
    Lora(Lora),
}

impl Trained {
    /// Fresh parameters. `head_rms` [L, H] is asked for when the method edits heads: the root
    /// mean square of their outputs in the base model.
    ///
    /// # Errors
    /// As [`Lora::new`].
    pub fn new(
        method: &Method,
        model: &Model,
        head_rms: impl FnOnce() -> Tensor,
        init: Init,
        seed: u64,
    ) -> Result<Trained, Error> {
        Ok(match method {
            Method::Lora(config) => Trained::Lora(Lora::new(config.clone(), model, seed)?),
            _ => {
                let head_dim = model.config.head_dim;
                let edits = Edits::new(method.clone(), head_dim, &head_rms(), init, seed);
                Trained::Edits(edits)
            }
        })
    }

    /// All parameters, leaf tensors under unique names.
    pub fn parameters(&self) -> Vec<(String, Group, &Tensor)> {
        let mut parameters = Vec::new();
        match self {
            Trained::Edits(edits) => {
                for half in &edits.halves {
                    let name = format!("{}.vectors", half.half.name());
                    parameters.push((name, Group::Weights, &half.vectors));
                }
                for (name, log_alpha) in edits.gates() {
                    parameters.push((format!("{name}.log_alpha"), Group::Gates, log_alpha));
                }
            }
            Trained::Lora(lora) => {
                for target in &lora.targets {
                    for (name, tensor) in [("a", &target.a), ("b", &target.b)] {
                        let name = format!("{}.lora_{name}", target.name);
                        parameters.push((name, Group::Weights, tensor));
                    }
                }
            }
        }
        parameters
    }

    /// What the model applies in a training step, one entry per layer; `noise` as for
    /// [`Edits::training_edits`].
    pub fn training_edits(&self, noise: Option<(u64, usize)>) -> Vec<LayerEdit> {
        match self {
            Trained::Edits(edits) => edits.training_edits(noise),
            Trained::Lora(lora) => lora.layer_edits(),
        }
    }

    /// What the model applies with the result as it stands, one entry per layer.
    pub fn final_edits(&self) -> Vec<LayerEdit> {
        match self {
            Trained::Edits(edits) => edits.final_edits(),
            Trained::Lora(lora) => lora.layer_edits(),
        }
    }

    /// The edits of head outputs, if that is what is trained.
    pub fn edits(&self) -> Option<&Edits> {
        match self {
            Trained::Edits(edits) => Some(edits),
            Trained::Lora(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn edits_mut(&mut self) -> Option<&mut Edits> {
        match self {
            Trained::Edits(edits) => Some(edits),
            Trained::Lora(_) => None,
        }
    }

    /// Which gates of each kind are open, [L, H] booleans on the device; empty without gates.
    pub fn open_gates(&self) -> Vec<(&'static str, Tensor)> {
        self.edits().map(Edits::open_gates).unwrap_or_default()
    }
}
