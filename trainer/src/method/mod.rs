//! What can be trained: edits of head outputs behind gates, and LoRA. Their parameters, what a
//! layer applies of them, and the files that they are written to.
//!
//! A method is a variant of [`Method`]. `gates` is the hard-concrete gate, `edits` the vectors
//! and gates of all heads, `lora` the low-rank factors; `parameters` is what the training loop
//! sees of either. `export` writes sidecars, `lora_file` adapters.

mod edits;
pub mod export;
mod gated_vectors;
// A benchmark and the tests of gradients call the gates themselves.
pub mod gates;
mod half;
mod head_choice;
mod init;
mod lora;
mod lora_config;
pub mod lora_file;
mod methods;
mod parameters;
mod provenance;
mod sizes;
mod sparsity;

pub use edits::Edits;
pub use gated_vectors::{GateValues, GatedVectors};
pub use half::Half;
pub use init::Init;
pub use lora::{Lora, Target};
pub use lora_config::LoraConfig;
pub use methods::Method;
pub use parameters::{ParameterGroup, Parameters};
pub use provenance::Provenance;
pub use sizes::Sizes;
pub use sparsity::{ClosedShares, Sparsity};
