//! The JoLA edit itself, without an inference engine.
//!
//! JoLA changes the output `z` of single attention heads, just before the output
//! projection: `z' = (1 + s·mul) ⊙ z + s·add`. This crate holds everything about that
//! edit that needs no model to run, so that the trainer, the llama.cpp hook and the
//! command line share one reading of it:
//!
//! - [`gguf`]: a strict reader and a streaming writer of the container format;
//! - [`sidecar`]: the edit as a file, see `docs/reference/sidecar-format.md` for its bytes;
//! - [`edit_set`]: one or more sidecars composed into the rows a graph multiplies and adds;
//! - [`graph`]: those rows as nodes of a ggml graph, through functions that the caller brings;
//! - [`atomic`]: files that are either complete or not there.
//!
//! It links nothing: no llama.cpp, no libtorch.

pub mod architectures;
pub mod atomic;
pub mod edit_set;
mod error;
pub mod gguf;
pub mod graph;
pub mod sidecar;

pub use edit_set::{parse_spec, ComposeError, DenseEdit, EditSet, SpecError};
pub use error::FileError;
pub use gguf::{Gguf, GgufError, GgufErrorKind};
pub use sidecar::{
    BaseMismatch, BaseShape, HeadCount, HeadVectors, LayerEdit, Sidecar, SidecarError,
    SidecarErrorKind,
};
