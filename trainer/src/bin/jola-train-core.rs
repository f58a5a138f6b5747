//! The trainer proper. It links libtorch, so it is started by `jola-train`, which finds
//! libtorch first.

use std::process::ExitCode;

use jola_trainer::cli::{exit_code, Cli};

fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}
