//! Trains JoLA edits with libtorch on the GGUF file that llama.cpp will serve.
//!
//! The way through: [`arch`], [`config`] and [`weights`] read the frozen base model, [`model`]
//! computes it, [`edits`] and [`gates`] hold what is trained, [`dataset`] and [`batch`]
//! bring the rows, [`train`] runs the three phases of [`schedule`] with [`optim`] and
//! [`penalty`], and [`export`] writes the sidecar. [`logits`] checks the result against
//! llama.cpp.

pub mod arch;
mod attention;
pub mod batch;
pub mod cli;
pub mod config;
pub mod dataset;
pub mod device;
pub mod edits;
mod error;
pub mod export;
pub mod feed_forward;
pub mod gates;
mod keys;
pub mod logits;
pub mod model;
pub mod optim;
pub mod penalty;
mod progress;
mod rng;
pub mod rope;
pub mod schedule;
pub mod train;
pub mod weights;

pub use error::Error;
