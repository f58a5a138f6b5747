//! The JoLA edit itself, without an inference engine.
//!
//! JoLA changes the output `z` of single attention heads, just before the output
//! projection: `z' = (1 + s·mul) ⊙ z + s·add`, at the user's strength `s`. This crate holds everything about that
//! edit that needs no model to run, so that the trainer, the llama.cpp hook and the
//! command line share one reading of it:
//!
//! - [`gguf`]: a strict reader and a streaming writer of the container format;
//! - [`sidecar`]: the edit as a file, see `docs/reference/sidecar-format.md` for its bytes;
//! - [`edit_set`]: one or more sidecars composed into the rows a graph multiplies and adds,
//!   and how users name them;
//! - [`graph`]: those rows as nodes of a ggml graph, through functions that the caller brings;
//! - [`architectures`]: what a base model must be to be edited or trained on;
//! - [`bytes`] and [`output`]: what files are read as, and the door through which results are
//!   written.
//!
//! It links nothing: no llama.cpp, no libtorch.

#![deny(missing_debug_implementations)]

pub mod architectures;
pub mod bytes;
mod digest;
pub mod edit_set;
mod error;
pub mod gguf;
pub mod graph;
pub mod output;
mod shard_name;
pub mod sidecar;

pub use architectures::{EncoderDecoder, Folded, Looped};
pub use edit_set::{
    join_specs, parse_spec, split_specs, ComposeError, DenseEdit, DenseEditError, EditSet,
    SpecError, SPECS_VARIABLE,
};
pub use error::FileError;
pub use gguf::{Gguf, GgufError, GgufErrorKind};
pub use output::{Output, OutputError, OutputErrorKind};
pub use sidecar::{
    BaseMismatch, BaseShape, BaseWeights, Doubt, HeadCount, HeadVectors, LayerEdit, Sidecar,
    SidecarError, SidecarErrorKind, Training,
};
