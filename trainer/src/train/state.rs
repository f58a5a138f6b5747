//! Where a run stands: everything needed to continue it exactly.

use tch::{Kind, Tensor};

use super::rate_search::Trial;
use super::unedited::Unedited;
use super::validation::{Done, Validation};
use crate::Error;

/// Between two steps of a run. Randomness needs no state: it is keyed by seed and step.
#[derive(Debug)]
pub struct State {
    /// What the run counts.
    pub counters: Counters,
    /// Parameters, their moments, averages of the penalty, the best parameters so far; on
    /// the CPU, under unique names.
    pub tensors: Vec<(String, Tensor)>,
}

/// The numbers of a [`State`].
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Steps done, with the validation that follows the last of them.
    pub step: usize,
    /// Tokens of these steps.
    pub tokens: usize,
    /// Seconds that these steps took.
    pub training_seconds: f64,
    /// The best validation of the stage; its parameters are among the tensors.
    pub best: Option<Validation>,
    /// Validations since the best.
    pub stale: usize,
    /// The unedited model.
    pub unedited: Option<Unedited>,
    /// Trials of learning rates.
    pub trials: Vec<Trial>,
    /// The rate that was found.
    pub rate: Option<f64>,
    /// The best of the stages that are done; their parameters are among the tensors.
    pub stages: Vec<Done>,
    /// Whether the last stage is done.
    pub ended: bool,
}

impl State {
    /// A tensor by name, of this shape and format.
    ///
    /// # Errors
    /// [`Error::State`] with what is there instead.
    pub fn tensor(&self, name: &str, like: &Tensor) -> Result<&Tensor, Error> {
        find(&self.tensors, name, &like.size(), like.kind())
    }
}

/// A tensor of saved state by name, of this shape and format.
///
/// # Errors
/// [`Error::State`] with what is there instead.
pub fn find<'a>(
    tensors: &'a [(String, Tensor)],
    name: &str,
    shape: &[i64],
    kind: Kind,
) -> Result<&'a Tensor, Error> {
    let what = match tensors.iter().find(|(n, _)| n == name) {
        Some((_, tensor)) if tensor.size() == shape && tensor.kind() == kind => return Ok(tensor),
        Some((_, tensor)) => format!(
            "{name} is {:?} of shape {:?}, expected {kind:?} of shape {shape:?}",
            tensor.kind(),
            tensor.size(),
        ),
        None => format!("{name} is missing"),
    };
    Err(Error::State { what })
}
