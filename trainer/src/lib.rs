//! Trains JoLA edits with libtorch on the GGUF file that llama.cpp will serve.
//!
//! The crate is a staircase. Each step uses only those before it, and no two files use each
//! other; the test in `staircase.rs` sees to that:
//!
//! 1. `error`: everything that can stop the trainer.
//! 2. `rng`: randomness that is keyed by seed, purpose and step.
//! 3. `gpu`: libtorch's part for GPUs.
//! 4. `readings`: numbers that leave the device, counted.
//! 5. [`architectures`]: what differs between the models that can be trained, a row for each.
//! 6. [`base`]: the frozen base model as it is stored, a GGUF or a Hugging Face directory.
//! 7. [`model`]: what the base model computes, and what a layer changes in it.
//! 8. [`data`]: the rows, tokenised, split and ordered.
//! 9. [`method`]: what is trained, from its first values to the file that it ends in.
//! 10. [`train`]: the loop over steps, with its schedule, penalty and optimiser.
//! 11. `report`: progress, and the run directory with its checkpoint and pictures.
//! 12. [`cli`]: the command line, which puts a run together.
//!
//! What is public is what the integration tests compare with llama.cpp and with the published
//! method, part by part, and [`cli::Cli`], which the program runs.

// Shapes such as [T] stand in brackets in the docs; they are no links.
#![allow(rustdoc::broken_intra_doc_links)]

pub mod architectures;
pub mod base;
pub mod cli;
pub mod data;
mod error;
mod gpu;
pub mod method;
pub mod model;
mod readings;
mod report;
mod rng;
#[cfg(test)]
mod staircase;
pub mod train;

pub use error::{Error, HfError, HfErrorKind};
pub use readings::readings;
