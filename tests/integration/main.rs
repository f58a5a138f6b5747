//! The two commands as users have them, and the library as programs have it, on a real
//! model: `make test` provides the model and builds the commands.

mod bake;
mod base;
mod bench;
mod cli;
mod common;
mod describe;
mod hook;
mod import;
mod likelihood;
mod logits;
mod lora;
mod parity;
mod patch;
mod quantised;
mod sidecar_files;
mod sidecars;
