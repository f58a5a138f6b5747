//! What a run trains, as the training loop sees it: named parameters in groups, and what
//! the model applies.

use tch::{no_grad, Tensor};

use super::edits::Edits;
use super::init::Init;
use super::lora::Lora;
use super::methods::Method;
use crate::model::{LayerChange, Model};
use crate::Error;

/// Groups of parameters with a learning rate each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterGroup {
    /// What is learned for the task: vectors or low-rank factors.
    Weights,
    /// What chooses heads.
    Gates,
}

/// The parameters of a run.
#[derive(Debug)]
pub enum Parameters {
    /// Edits of head outputs.
    Edits(Edits),
    /// Low-rank changes of matrices.
    Lora(Lora),
}

impl Parameters {
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
    ) -> Result<Parameters, Error> {
        Ok(match method {
            Method::Lora(config) => Parameters::Lora(Lora::new(config.clone(), model, seed)?),
            _ => {
                let head_dim = model.config.head_dim;
                let edits = Edits::new(method.clone(), head_dim, &head_rms(), init, seed);
                Parameters::Edits(edits)
            }
        })
    }

    /// All parameters, leaf tensors under unique names.
    pub fn named(&self) -> Vec<(String, ParameterGroup, &Tensor)> {
        let mut parameters = Vec::new();
        match self {
            Parameters::Edits(edits) => {
                for half in &edits.halves {
                    let name = format!("{}.vectors", half.half.name());
                    parameters.push((name, ParameterGroup::Weights, &half.vectors));
                }
                for (name, log_alpha) in edits.gates() {
                    parameters.push((
                        format!("{name}.log_alpha"),
                        ParameterGroup::Gates,
                        log_alpha,
                    ));
                }
            }
            Parameters::Lora(lora) => {
                for target in &lora.targets {
                    for (name, tensor) in [("a", &target.a), ("b", &target.b)] {
                        let name = format!("{}.lora_{name}", target.name);
                        parameters.push((name, ParameterGroup::Weights, tensor));
                    }
                }
            }
        }
        parameters
    }

    /// Puts values back that were copied from [`named`](Self::named) ones, those that there are;
    /// gates have their deterministic value from then on.
    pub fn set_values(&mut self, values: &[(String, Tensor)]) {
        no_grad(|| {
            for (name, _, parameter) in self.named() {
                if let Some((_, value)) = values.iter().find(|(own, _)| *own == name) {
                    parameter.shallow_clone().copy_(value);
                }
            }
        });
        if let Some(edits) = self.edits_mut() {
            edits.fix();
        }
    }

    /// Numbers that a file of them holds (reads from the device).
    pub fn n_kept(&self) -> usize {
        match self {
            Parameters::Edits(edits) => edits.n_kept(),
            Parameters::Lora(lora) => lora.n_parameters(),
        }
    }

    /// What the model applies in a training step, one entry per layer; `noise` as for
    /// [`Edits::training_changes`].
    pub fn training_changes(&self, noise: Option<(u64, usize)>) -> Vec<LayerChange> {
        match self {
            Parameters::Edits(edits) => edits.training_changes(noise),
            Parameters::Lora(lora) => lora.layer_changes(),
        }
    }

    /// What the model applies with the result as it stands, one entry per layer.
    pub fn final_changes(&self) -> Vec<LayerChange> {
        match self {
            Parameters::Edits(edits) => edits.final_changes(),
            Parameters::Lora(lora) => lora.layer_changes(),
        }
    }

    /// The edits of head outputs, if that is what is trained.
    pub fn edits(&self) -> Option<&Edits> {
        match self {
            Parameters::Edits(edits) => Some(edits),
            Parameters::Lora(_) => None,
        }
    }

    /// The edits of head outputs, to be changed, if that is what is trained.
    pub fn edits_mut(&mut self) -> Option<&mut Edits> {
        match self {
            Parameters::Edits(edits) => Some(edits),
            Parameters::Lora(_) => None,
        }
    }

    /// Which gates of each kind are open, [L, H] booleans on the device; empty without gates.
    pub fn open_gates(&self) -> Vec<(&'static str, Tensor)> {
        self.edits().map(Edits::open_gates).unwrap_or_default()
    }
}
