//! Trains JoLA edits with libtorch on the GGUF file that llama.cpp will serve.
//!
//! The way through: [`base`] opens the frozen base model (a GGUF, or by [`hf`] a Hugging
//! Face directory), [`arch`], [`config`] and [`weights`] read it, [`model`]
//! computes it, [`edits`] with [`gates`] or [`lora`] hold what is trained, [`dataset`] and [`batch`]
//! bring the [`rows`], [`train`] runs the three phases of [`schedule`] with [`optim`] and
//! [`penalty`] as [`recipe`] says, and [`export`] writes the sidecar, or [`lora_file`] the adapter. [`run_dir`]
//! keeps a run's metrics and its [`checkpoint`]. [`logits`] checks the result against
//! llama.cpp.

// Shapes such as [T] stand in brackets in the docs; they are no links.
#![allow(rustdoc::broken_intra_doc_links)]

pub mod architectures;
pub mod base;
pub mod cli;
pub mod data;
mod error;
pub mod method;
pub mod model;
mod report;
mod rng;
pub mod train;

pub use error::Error;
