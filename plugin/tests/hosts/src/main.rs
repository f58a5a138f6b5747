//! Tests the plugin with llama.cpp builds that no one here compiled: `make test-plugin`.
//!
//! Each build × backend is started without the plugin, with the plugin and no edits, with edits,
//! and without the plugin on a model that has them baked in; what it answers is compared with
//! `llama-jola`'s own engine on the same sidecar. A build that is missing is an error. `soak`,
//! `speed` and `instructions` are the slow parts: `make soak-plugin`.

mod backend;
mod client;
mod fixtures;
mod hosts;
mod lab;
mod lora;
mod preload;
mod process;
mod recipe;
mod reference;
mod report;
mod soak;
mod soak_adapters;
mod speed;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Tests the plugin with llama.cpp builds that were not compiled here")]
struct Args {
    /// The plugin
    #[arg(
        long,
        value_name = "LIBJOLA",
        default_value = "target/release/libjola.so"
    )]
    library: PathBuf,
    /// The base model
    #[arg(long, value_name = "BASE.gguf")]
    model: PathBuf,
    /// Folder in which scripts/setup.sh hosts put the builds
    #[arg(long, value_name = "FOLDER")]
    hosts: PathBuf,
    /// Folder for what is slow to derive from the base model
    #[arg(long, value_name = "FOLDER")]
    cache: PathBuf,
    /// A trained sidecar, to test as well
    #[arg(long, value_name = "EDIT.gguf")]
    trained: Option<PathBuf>,
    /// Keep the hosts' logs in this folder
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every build and backend, without and with edits
    Test {
        /// Only checks whose row (build × backend: check) contains this
        filter: Option<String>,
    },
    /// Many requests to one server: memory stays flat, answers stay right
    Soak {
        /// How many requests
        #[arg(long, default_value_t = 10_000)]
        requests: usize,
    },
    /// Many requests with random adapters: each answer is that of a fresh process with just those
    SoakAdapters {
        /// How many requests
        #[arg(long, default_value_t = 2_000)]
        requests: usize,
        /// What decides which adapters are asked for
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A part of the server's name
        #[arg(long, default_value = "")]
        build: String,
    },
    /// Decode and prefill with edits against without the plugin
    Speed {
        /// How often the servers are started
        #[arg(long, default_value_t = 10)]
        starts: usize,
        /// How often each server is asked after a start
        #[arg(long, default_value_t = 40)]
        rounds: usize,
        /// Threads of each server
        #[arg(short, long, default_value_t = 2)]
        threads: usize,
    },
    /// Instructions of decode and prefill with edits against without the plugin (needs valgrind)
    Instructions,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let args = Args::parse();
    let lab = lab::Lab::new(
        &args.library,
        &args.model,
        &args.hosts,
        &args.cache,
        args.trained,
        args.logs,
    )?;
    match args.command {
        Command::Test { filter } => suite::run(&lab, filter),
        Command::Soak { requests } => soak::run(&lab, requests),
        Command::SoakAdapters {
            requests,
            seed,
            build,
        } => soak_adapters::run(&lab, &build, requests, seed),
        Command::Speed {
            starts,
            rounds,
            threads,
        } => speed::run(&lab, starts, rounds, threads),
        Command::Instructions => speed::instructions(&lab),
    }
}
