//! The `llama-jola` command.

use std::io;
use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    match llama_jola::processor::check()
        .map_err(Into::into)
        .and_then(|()| cli::run())
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if reader_has_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}{}", cli::advice(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether whoever read the output, such as `head`, has seen enough of it.
fn reader_has_gone(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
