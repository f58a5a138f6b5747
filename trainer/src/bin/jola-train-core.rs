//! The trainer proper. It links libtorch, so it is started by `jola-train`, which finds
//! libtorch first.

use std::process::ExitCode;

use jola_trainer::cli::{exit_code, Cli};

fn main() -> ExitCode {
    let fit = llama_jola::processor::check().map_err(Into::into);
    match fit
        .and_then(|()| Cli::read(std::env::args_os()))
        .and_then(Cli::run)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                usage.exit();
            }
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}
