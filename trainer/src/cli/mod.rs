//! The command line of `jola-train`.

mod command;
mod config_file;
mod held_out;
mod inputs;
mod job;
mod logits;
mod machine;
mod method_args;
mod out_of_memory;
mod provenance;
mod results;
mod run_args;
mod train;
mod train_args;
mod values;

use std::process::ExitCode;

pub use command::Cli;

/// Status of a run whose result is no better than the unedited model.
const NO_BETTER: u8 = 3;

/// The status that a command ends with which failed like this: 1, or 3 where a run came to its
/// end and found nothing better than the model without an edit.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.is::<results::NoBetter>() {
        true => ExitCode::from(NO_BETTER),
        false => ExitCode::FAILURE,
    }
}
