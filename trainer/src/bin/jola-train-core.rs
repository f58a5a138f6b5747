//! The trainer proper. It links libtorch, so it is started by `jola-train`, which finds
//! libtorch first.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match jola_trainer::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            jola_trainer::cli::exit_code(&error)
        }
    }
}
