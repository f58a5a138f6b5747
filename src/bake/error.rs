//! Everything that can stop baking.

use std::path::PathBuf;

use jola_edit::gguf::GgufError;
use jola_edit::OutputError;

use super::architectures::Obstacle;
use super::OutType;

/// Why an edit was not baked. Nothing has been written then.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// The edits change nothing.
    #[error("nothing to bake: the edits change no head")]
    Nothing,
    /// An architecture whose output projection has not been looked at.
    #[error(
        "architecture `{architecture}`: what llama.cpp does between its head outputs and the \
         output projection is not known here, so nothing can be baked; attach the edit instead"
    )]
    Architecture {
        /// `general.architecture`.
        architecture: String,
    },
    /// A part of the edit that weights cannot express.
    #[error(
        "the {part} of layers {layers:?} cannot be baked into architecture `{architecture}`: \
         {obstacle}; attach the edit instead"
    )]
    Part {
        /// `scales` or `offsets`.
        part: &'static str,
        /// Layers that have such a part.
        layers: Vec<u32>,
        /// `general.architecture`.
        architecture: String,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// Weights that are not what the head outputs are multiplied with.
    #[error("{}: {error}", file.display())]
    Folded {
        /// The model's (first) file.
        file: PathBuf,
        /// What it says of itself.
        error: jola_edit::Folded,
    },
    /// An edited layer without an output projection.
    #[error("{}: tensor `{tensor}` is missing", file.display())]
    MissingTensor {
        /// The model's (first) file.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
    },
    /// An output projection, bias or scale of unexpected dimensions.
    #[error("{}: tensor `{tensor}` has dimensions {found:?}, expected {expected:?}", file.display())]
    Shape {
        /// The file that holds it.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What the edit and the other tensors ask for.
        expected: Vec<u64>,
        /// What is stored.
        found: Vec<u64>,
    },
    /// A tensor that cannot have the type asked for.
    #[error("tensor `{tensor}` cannot be written as {outtype}: {reason}")]
    OutType {
        /// Name of the tensor.
        tensor: String,
        /// What was asked for.
        outtype: OutType,
        /// What about the tensor forbids it.
        reason: String,
    },
    /// No type is close enough to the live edit.
    #[error(
        "the result is too far from the live edit (mean KL {}, limit {limit:e})",
        list(measured)
    )]
    TooFar {
        /// Largest mean divergence that was allowed, in nats.
        limit: f64,
        /// Mean divergence of each type, in nats.
        measured: Vec<(OutType, f64)>,
    },
    /// The result runs, but not to numbers.
    #[error("the result's logits are not numbers")]
    NotFinite,
    /// The result cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A file that cannot be read or written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::Error),
}

fn list(measured: &[(OutType, f64)]) -> String {
    let texts: Vec<String> = measured
        .iter()
        .map(|(t, kl)| format!("{t}: {kl:.1e}"))
        .collect();
    texts.join(", ")
}
