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

pub mod arch;
mod attention;
pub mod base;
pub mod batch;
mod chart;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod dataset;
pub mod device;
pub mod edits;
mod error;
pub mod estimate;
pub mod export;
pub mod feed_forward;
pub mod gates;
pub mod gradient;
pub mod hf;
mod keys;
pub mod logits;
pub mod lora;
pub mod lora_file;
pub mod memory;
pub mod method;
mod method_args;
pub mod model;
pub mod optim;
pub mod penalty;
mod plots;
mod progress;
pub mod recipe;
pub mod record;
mod rng;
pub mod rope;
pub mod rows;
mod run;
mod run_args;
pub mod run_config;
pub mod run_dir;
pub mod schedule;
pub mod state;
pub mod train;
pub mod trained;
pub mod validation;
mod watch;
pub mod weights;

pub use error::Error;
