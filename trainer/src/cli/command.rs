//! The command line of `jola-train`: its commands, and which code does them.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use llama_jola::manuals;

use super::config_file;
use super::logits::{self, LogitsArgs};
use super::method_args::MethodArgs;
use super::run_args::RunArgs;
use super::train::train;
use super::train_args::TrainArgs;

/// Train a JoLA edit on the GGUF model that llama.cpp serves.
///
/// The result is a small sidecar file with a scale and an offset for the few attention
/// heads that matter for the task. The base model is never changed.
///
/// Example: jola-train -m base.gguf --data train.jsonl --valid valid.jsonl -o edit.gguf
#[derive(Debug, Parser)]
#[command(
    name = "jola-train",
    // The program that runs is `jola-train-core`, which users do not start themselves.
    bin_name = "jola-train",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Options from a TOML file, by their names without dashes, as epochs = 3, or those of an
    /// earlier run, from the config.json in its run directory. What is typed here has the last
    /// word.
    #[arg(long, value_name = "RUN.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    train: Option<TrainArgs>,
    // Not within `train`: clap takes no account of nested options when it looks whether
    // there are any.
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    method: MethodArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the reference model's logits, to compare with llama.cpp's.
    Logits(LogitsArgs),
    /// Write man pages and shell completions to a folder.
    #[command(hide = true)]
    Manuals {
        /// Folder to write to; `man` and `completions` are made in it.
        folder: PathBuf,
    },
}

impl Cli {
    /// Reads a command line, the program's name first, with the options of a file that it names.
    ///
    /// # Errors
    /// A [`clap::Error`] for a wrong line or for help that was asked for; a file that cannot be
    /// read.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli> {
        let command = Cli::command();
        let words = config_file::expand(&command, args)?;
        let matches = command.clone().try_get_matches_from(words)?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        cli.run.options = config_file::given(&command, &matches);
        Ok(cli)
    }

    /// Does what was typed.
    ///
    /// # Errors
    /// Whatever stopped it, with the file or option concerned.
    pub fn run(self) -> Result<()> {
        match (self.command, self.train) {
            (Some(Command::Logits(args)), _) => logits::run(args),
            (Some(Command::Manuals { folder }), _) => Ok(manuals::write(Cli::command(), &folder)?),
            (None, Some(args)) => train(&args, &self.method, &self.run),
            (None, None) => unreachable!("clap asks for the required options"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_the_program_that_users_start() {
        for (words, usage) in [
            (&["--help"][..], "Usage: jola-train [OPTIONS]"),
            (&["logits", "--help"], "Usage: jola-train logits [OPTIONS]"),
        ] {
            let words = ["bin/jola-train-core"].iter().chain(words);
            let help = Cli::try_parse_from(words).unwrap_err().to_string();
            assert!(help.contains(usage), "{help}");
            assert!(!help.contains("jola-train-core"), "{help}");
        }
    }
}
