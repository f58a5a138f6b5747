//! The command line of `jola-train`: what was typed, and what it means.

use std::path::PathBuf;

use anyhow::{ensure, Context as _, Result};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use jola_edit::Sidecar;
use llama_jola::manuals;

use crate::config::Config;
use crate::dataset::Sampler;
use crate::device::{set_threads, DeviceChoice, DtypeChoice};
use crate::logits::{self, Applied};
use crate::method::Method;
use crate::method_args::{MethodArgs, RecipeName};
use crate::penalty::{Shares, Sparsity};
use crate::recipe::{Recipe, Settings};
use crate::run_args::RunArgs;

/// Train a JoLA edit on the GGUF model that llama.cpp serves.
///
/// The result is a small sidecar file with a scale and an offset for the few attention
/// heads that matter for the task. The base model is never changed.
///
/// Example: jola-train -m base.gguf --data train.jsonl --valid valid.jsonl -o edit.gguf
#[derive(Debug, Parser)]
#[command(
    name = "jola-train",
    // Not the name of the file: the program that users start is another, which starts this one.
    bin_name = "jola-train",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
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

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Base model: a GGUF file of any quantisation, trained on as llama.cpp dequantises it,
    /// or a directory in Hugging Face's layout.
    #[arg(short, long, value_name = "BASE.gguf|DIR")]
    pub(crate) model: PathBuf,
    /// Training rows, one JSON object a line: {"prompt","completion"}, {"messages":[…]} or
    /// {"instruction","input","answer"}.
    #[arg(long, value_name = "TRAIN.jsonl")]
    pub(crate) data: PathBuf,
    /// Validation rows; the edit that answers most of them exactly is kept, where less
    /// than two rows tell them apart that of the lowest loss (with free text and --recipe paper
    /// always).
    #[arg(long, value_name = "VALID.jsonl", conflicts_with = "valid_share")]
    pub(crate) valid: Option<PathBuf>,
    /// Without --valid: the share of the training rows held out for validation.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = share)]
    pub(crate) valid_share: f64,
    /// Where to write the sidecar (with --method lora: the LoRA adapter).
    #[arg(short, long, value_name = "EDIT.gguf")]
    pub(crate) output: PathBuf,
    /// Share of the gates to close: each head has a gate for its scale and one for its
    /// offset. Two numbers, as 0.9,0.85, are for scales and for offsets. A closed gate leaves
    /// no trace in the sidecar. Lower it for tasks with many classes [default: 0.9,0.85].
    #[arg(long, value_name = "SHARE[,SHARE]", value_parser = shares)]
    pub(crate) sparsity: Option<Shares>,
    /// Instead of --sparsity: the λ of the paper's penalty λ·Σ P(gate ≠ 0). With --method
    /// lofit: the λ of the L1 penalty on the scales [there: 1e-3].
    #[arg(long, value_name = "L", conflicts_with = "sparsity", value_parser = positive)]
    pub(crate) lambda: Option<f64>,
    /// Use only the first N training rows.
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) limit: Option<usize>,
    /// Times that every row is seen [default: 12; with --recipe paper: 20].
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) epochs: Option<usize>,
    /// Instead of --epochs: optimiser steps.
    #[arg(long, value_name = "N", conflicts_with = "epochs", value_parser = count)]
    pub(crate) steps: Option<usize>,
    /// Rows per optimiser step [default: 4; with --recipe paper: 8].
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) batch_size: Option<usize>,
    /// Learning rate at its peak, of scales and offsets or of low-rank factors; three times
    /// as much once gates have chosen heads (not with --recipe paper)
    /// [default: 0.1; lora: 0.002; with --recipe paper: 0.005].
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) lr: Option<f64>,
    /// Learning rate of the gates (of log alpha) [default: by the number of steps].
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) gate_lr: Option<f64>,
    /// Seed of everything random. The same seed and thread count give the same file on a CPU.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(crate) seed: u64,
    /// Stop when so many validations in a row were no better than the best before; 0: never.
    /// Validation begins where the choice of heads ends [default: 3; with --recipe paper: 2].
    #[arg(long, value_name = "N")]
    pub(crate) patience: Option<usize>,
    /// Leave out rows of more tokens [default: the base model's context].
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) max_length: Option<usize>,
    /// Number format of frozen weights and activations.
    #[arg(long, value_enum, default_value_t = DtypeChoice::Auto)]
    pub(crate) dtype: DtypeChoice,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// CPU threads [default: all cores].
    #[arg(short, long, value_name = "N", value_parser = count)]
    pub(crate) threads: Option<usize>,
    /// Most memory to use, in GiB. If need be, lower layers are computed again in the backward
    /// pass: less memory, the same result, up to half more time.
    #[arg(long, value_name = "GIB", value_parser = positive)]
    pub(crate) max_memory: Option<f64>,
    /// Send plain prompts through the model's chat template, as one user message.
    #[arg(long)]
    pub(crate) chat: bool,
    /// Print the number of rows, tokens, steps and trained numbers and the memory that the
    /// run will need, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
struct LogitsArgs {
    /// Base model: a GGUF file, or a directory in Hugging Face's layout.
    #[arg(short, long, value_name = "BASE.gguf|DIR")]
    model: PathBuf,
    /// A sidecar to apply, with a scale after the last colon; may be given several times.
    #[arg(long, value_name = "EDIT.gguf[:S]")]
    jola: Vec<String>,
    /// A LoRA adapter to apply, with a scale after the last colon; may be given several times.
    #[arg(long, value_name = "LORA.gguf[:S]")]
    lora: Vec<String>,
    /// Token ids, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// Where to write them: little-endian float32, [n_tokens, n_vocab].
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// CPU threads [default: all cores].
    #[arg(short, long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
}

/// A number in [0, 1).
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("expected a share from 0 up to, but not including, 1".to_owned()),
    }
}

/// One share for both kinds of gates, or one for each.
fn shares(text: &str) -> Result<Shares, String> {
    Ok(match text.split_once(',') {
        None => Shares::both(share(text)?),
        Some((scale, offset)) => Shares {
            scale: share(scale.trim())?,
            offset: share(offset.trim())?,
        },
    })
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a positive number".to_owned()),
    }
}

pub(crate) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1".to_owned()),
        Ok(value) => Ok(value),
    }
}

impl Cli {
    /// Does what was typed.
    ///
    /// # Errors
    /// Whatever stopped it, with the file or option concerned.
    pub fn run(self) -> Result<()> {
        match (self.command, self.train) {
            (Some(Command::Logits(args)), _) => run_logits(args),
            (Some(Command::Manuals { folder }), _) => manuals::write(Cli::command(), &folder)
                .with_context(|| format!("writing manuals to {}", folder.display())),
            (None, Some(args)) => crate::run::train(&args, &self.method, &self.run),
            (None, None) => unreachable!("clap asks for the required options"),
        }
    }
}

fn run_logits(args: LogitsArgs) -> Result<()> {
    set_threads(args.threads);
    let mut sidecars = Vec::with_capacity(args.jola.len());
    for spec in &args.jola {
        let (path, scale) = jola_edit::parse_spec(spec)?;
        let sidecar = Sidecar::read(&path)?;
        sidecars.push(Applied {
            path,
            sidecar,
            scale,
        });
    }
    let loras = args.lora.iter().map(|spec| jola_edit::parse_spec(spec));
    let loras = loras.collect::<Result<Vec<_>, _>>()?;
    let device = args.device.resolve()?;
    let (model, tokens) = (&args.model, &args.tokens);
    logits::write(model, &sidecars, &loras, tokens, &args.output, device)?;
    Ok(())
}

impl TrainArgs {
    /// What the options mean for `n_rows` training rows of a model like `config`.
    ///
    /// # Errors
    /// Options that do not go together.
    pub(crate) fn settings(
        &self,
        options: &MethodArgs,
        config: &Config,
        n_rows: usize,
    ) -> Result<Settings> {
        let method = options.method(self.lambda, config)?;
        let paper = options.recipe == RecipeName::Paper;
        let defaults = options.recipe.defaults();
        let sampler = Sampler {
            n_rows,
            batch_size: self.batch_size.unwrap_or(defaults.batch_size),
            seed: self.seed,
        };
        let of_gates = [
            ("--recipe paper", paper),
            ("--sparsity", self.sparsity.is_some()),
            ("--gate-lr", self.gate_lr.is_some()),
            (
                "--lambda",
                self.lambda.is_some() && !matches!(method, Method::Lofit { .. }),
            ),
        ];
        for (option, given) in of_gates {
            let name = method.name();
            ensure!(
                method.gated() || !given,
                "{option} is for gates: --method {name} has none"
            );
        }
        if paper {
            ensure!(
                self.gate_lr.is_none(),
                "--recipe paper trains gates at --lr"
            );
            ensure!(
                self.sparsity.is_none(),
                "--recipe paper goes by --lambda, not --sparsity"
            );
        }
        let epochs = self.epochs.unwrap_or(defaults.epochs);
        let steps = self.steps.unwrap_or(epochs * sampler.steps_per_epoch());
        let epochs = steps.div_ceil(sampler.steps_per_epoch());
        let lr = self.lr.or(defaults.lr);
        Ok(Settings {
            lr: lr.unwrap_or_else(|| method.default_lr()),
            method,
            sparsity: match (self.lambda, self.sparsity) {
                (Some(lambda), _) => Sparsity::Lambda(lambda),
                (None, Some(shares)) => Sparsity::Target(shares),
                (None, None) => defaults.sparsity,
            },
            steps,
            batch_size: sampler.batch_size,
            gate_lr: self.gate_lr,
            patience: self.patience.unwrap_or(defaults.patience),
            recomputed: 0,
            seed: self.seed,
            recipe: match options.recipe {
                RecipeName::Default => Recipe::default(),
                RecipeName::Paper => Recipe::paper(steps, epochs, config.n_head),
            },
        })
    }
}
