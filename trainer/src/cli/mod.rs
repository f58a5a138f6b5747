//! The command line.

pub mod command;
pub mod device;
pub mod logits;
pub mod method_args;
pub mod run_args;
pub mod train;
