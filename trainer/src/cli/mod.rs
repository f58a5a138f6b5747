//! The command line of `jola-train`.

mod command;
mod inputs;
mod job;
mod logits;
mod machine;
mod method_args;
mod provenance;
mod run_args;
mod train;
mod train_args;
mod values;

pub use command::Cli;
