//! The command line: what was typed, turned into calls of the library.

mod advice;
mod args;
mod bake;
mod bench;
mod card;
mod describe;
mod eval;
mod heatmap;
mod import;
mod inspect;
mod logits;
mod merge;
mod output;
mod progress;
mod run;
mod with;

use std::path::PathBuf;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

pub use advice::advice;

#[derive(Parser)]
#[command(
    name = "llama-jola",
    version,
    about = "Run llama.cpp models with JoLA edits",
    long_about = "Run llama.cpp models with JoLA edits: small GGUF files, trained by jola-train, \
        that scale and shift the outputs of a few attention heads.",
    after_help = "First steps:\n  \
        llama-jola run -m base.gguf --jola edit.gguf -p 'Message: where is my parcel?\\nTeam:' -n 8\n  \
        llama-jola eval -m base.gguf --jola edit.gguf --data test.jsonl\n  \
        llama-jola inspect edit.gguf --plot edit.svg"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a prompt, or hold a conversation
    Run(run::RunArgs),
    /// Score the model on a data file
    Eval(eval::EvalArgs),
    /// Write the logits of every position to a file
    Logits(logits::LogitsArgs),
    /// Measure what edits cost in speed
    Bench(bench::BenchArgs),
    /// Turn an edit of another project into a sidecar
    Import(import::ImportArgs),
    /// Write a plain model with the edits as weights
    Bake(bake::BakeArgs),
    /// Write several edits as one
    Merge(merge::MergeArgs),
    /// Show what a sidecar edits, or what a base model is
    Inspect(inspect::InspectArgs),
    /// Write a page about a sidecar for a model hub
    Card(card::CardArgs),
    /// Run a program that has its own llama.cpp, such as llama-server, with edits
    With(with::WithArgs),
    /// Write man pages and shell completions to a folder
    #[command(hide = true)]
    Manuals {
        /// Folder to write to; `man` and `completions` are made in it
        folder: PathBuf,
    },
}

/// Parses the command line and runs the command.
///
/// # Errors
/// Whatever stopped the command. Usage errors do not return: clap exits with status 2.
pub fn run() -> Result<()> {
    let cli = Cli::try_parse_from(args::llama_spelling(std::env::args_os()));
    let cli = cli.unwrap_or_else(|error| advice::of_usage(error).exit());
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Bake(args) => bake::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Card(args) => card::run(&args),
        Command::With(args) => with::run(&args),
        Command::Manuals { folder } => Ok(llama_jola::manuals::write(Cli::command(), &folder)?),
    }
}
