//! JoLA edits inside llama.cpp.
//!
//! A JoLA sidecar (a small GGUF file) holds, for a few attention heads of a frozen model,
//! a scale and an offset of the head's output before the output projection W_O:
//! `z' = (1 + s·mul) ⊙ z + s·add`. This crate loads a model with llama.cpp, attaches such
//! edits to a context and runs it.
//!
//! ```no_run
//! use llama_jola::{CompletionParams, Context, ContextParams, Model, ModelParams, Sidecar};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::load("base.gguf", &ModelParams::default())?;
//! let sidecar = Sidecar::read("edit.gguf")?;
//! let edits = model.compose(&[(&sidecar, 1.0)])?;
//! let mut context = Context::new(&model, &ContextParams::default())?;
//! context.set_edits(&edits)?;
//! let prompt = "Message: where is my parcel?\nTeam:";
//! println!("{}", context.complete(prompt, &CompletionParams::default())?);
//! # Ok(())
//! # }
//! ```
//!
//! [`generate`](generate::generate) continues many prompts at once, in tokens;
//! [`Context::decode`] and [`Context::logits`] are llama.cpp's own steps.
//!
//! A program that embeds the library needs no command line: without the default feature `cli`
//! neither clap nor what else only the command uses is compiled.
//!
//! How the edit gets into llama.cpp's graph is told in [`hook`]; the file format in
//! `docs/reference/sidecar-format.md`.

#![deny(missing_debug_implementations)]

pub mod bake;
pub mod bench;
pub mod chat;
mod complete;
pub mod context;
pub mod data;
mod error;
pub mod eval;
pub mod generate;
pub mod ggml;
pub mod hook;
pub mod import;
mod jinja;
mod logging;
pub mod lora;
#[cfg(feature = "cli")]
pub mod manuals;
pub mod model;
mod native;
pub mod processor;
pub mod sampler;
pub mod stats;
mod vocabulary;

pub use complete::CompletionParams;
pub use context::{Batch, CacheType, Context, ContextParams, FlashAttention};
pub use error::Error;
pub use generate::EditedTokens;
pub use hook::LoadedEdits;
pub use jola_edit::{EditSet, Sidecar};
pub use logging::{log_to_stderr, LogLevel};
pub use lora::{Adapters, Lora};
pub use model::{Model, ModelParams, SpecialTokens, Token};
pub use vocabulary::Vocabulary;
