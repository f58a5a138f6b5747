//! The command line of `jola-train`: what was typed, and what it means.

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use clap::{Args, Parser, Subcommand};
use jola_edit::gguf::Metadata;
use jola_edit::{sidecar, Sidecar};
use tch::{Device, Tensor};

use crate::base::{self, Base};
use crate::batch::Sequence;
use crate::config::Config;
use crate::dataset::{self, Encoded, Sampler};
use crate::device::{set_threads, DeviceChoice, DtypeChoice};
use crate::edits::Edits;
use crate::estimate::{self, Estimate};
use crate::export::{self, Provenance};
use crate::logits::{self, Applied};
use crate::lora_file;
use crate::method::Method;
use crate::method_args::{MethodArgs, RecipeName};
use crate::model::{Model, Precision};
use crate::penalty::Sparsity;
use crate::progress::Reporter;
use crate::run_args::RunArgs;
use crate::run_config::{self, RunConfig};
use crate::train::{Outcome, Recipe, Settings, Trainer, PAPER_LAMBDA, PAPER_LR};
use crate::trained::Trained;
use crate::watch::Watcher;

/// Train a JoLA edit on the GGUF model that llama.cpp serves.
///
/// The result is a small sidecar file with a scale and an offset for the few attention
/// heads that matter for the task. The base model is never changed.
///
/// Example: jola-train -m base.gguf --data train.jsonl --valid valid.jsonl -o edit.gguf
#[derive(Debug, Parser)]
#[command(name = "jola-train", version, args_conflicts_with_subcommands = true)]
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
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// Base model: a GGUF file of any quantisation, trained on as llama.cpp dequantises it,
    /// or a directory in Hugging Face's layout.
    #[arg(short, long, value_name = "BASE.gguf|DIR")]
    model: PathBuf,
    /// Training rows, one JSON object a line: {"prompt","completion"}, {"messages":[…]} or
    /// {"instruction","input","answer"}.
    #[arg(long, value_name = "TRAIN.jsonl")]
    data: PathBuf,
    /// Validation rows; the edit that does best on them is kept.
    #[arg(long, value_name = "VALID.jsonl", conflicts_with = "valid_share")]
    valid: Option<PathBuf>,
    /// Without --valid: the share of the training rows held out for validation.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = share)]
    valid_share: f64,
    /// Where to write the sidecar (with --method lora: the LoRA adapter).
    #[arg(short, long, value_name = "EDIT.gguf")]
    output: PathBuf,
    /// Share of the gates to close. Each head has two gates, one for its scale and one for
    /// its offset; a closed gate leaves no trace in the sidecar [default: 0.9].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    sparsity: Option<f64>,
    /// Instead of --sparsity: the λ of the paper's penalty λ·Σ P(gate ≠ 0). With --method
    /// lofit: the λ of the L1 penalty on the scales [there: 1e-3].
    #[arg(long, value_name = "L", conflicts_with = "sparsity", value_parser = positive)]
    lambda: Option<f64>,
    /// Use only the first N training rows.
    #[arg(long, value_name = "N", value_parser = count)]
    limit: Option<usize>,
    /// Times that every row is seen [default: 12; with --recipe paper: 20].
    #[arg(long, value_name = "N", value_parser = count)]
    epochs: Option<usize>,
    /// Instead of --epochs: optimiser steps.
    #[arg(long, value_name = "N", conflicts_with = "epochs", value_parser = count)]
    steps: Option<usize>,
    /// Rows per optimiser step.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count)]
    batch_size: usize,
    /// Learning rate at its peak, of scales and offsets or of low-rank factors
    /// [default: 0.05; lora: 0.001; with --recipe paper: 0.005].
    #[arg(long, value_name = "X", value_parser = positive)]
    lr: Option<f64>,
    /// Learning rate of the gates (of log alpha) [default: by the number of steps].
    #[arg(long, value_name = "X", value_parser = positive)]
    gate_lr: Option<f64>,
    /// Seed of everything random. The same seed and thread count give the same file on a CPU.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Stop when so many validations in a row were no better than the best before; 0: never.
    /// Validation begins where the choice of heads ends [default: 3; with --recipe paper: 2].
    #[arg(long, value_name = "N")]
    patience: Option<usize>,
    /// Leave out rows of more tokens [default: the base model's context].
    #[arg(long, value_name = "N", value_parser = count)]
    max_length: Option<usize>,
    /// Number format of frozen weights and activations.
    #[arg(long, value_enum, default_value_t = DtypeChoice::Auto)]
    dtype: DtypeChoice,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// CPU threads [default: all cores].
    #[arg(short, long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// Most memory to use, in GiB. If need be, lower layers are computed again in the backward
    /// pass: less memory, the same result, up to half more time.
    #[arg(long, value_name = "GIB", value_parser = positive)]
    max_memory: Option<f64>,
    /// Send plain prompts through the model's chat template, as one user message.
    #[arg(long)]
    chat: bool,
    /// Print the number of rows, tokens, steps and trained numbers and the memory that the
    /// run will need, and stop.
    #[arg(long)]
    dry_run: bool,
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
            (None, Some(args)) => run_train(&args, &self.method, &self.run),
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

/// What a run computes on, and how.
#[derive(Clone, Copy)]
struct Machine {
    device: Device,
    precision: Precision,
    threads: usize,
}

fn run_train(args: &TrainArgs, method: &MethodArgs, run: &RunArgs) -> Result<()> {
    let start = std::time::Instant::now();
    check_output(&args.output)?;
    let threads = set_threads(args.threads);
    let device = args.device.resolve()?;
    let precision = args.dtype.resolve(device);
    let machine = Machine {
        device,
        precision,
        threads,
    };
    let base = base::open(&args.model)?;
    let (train, valid) = read_data(args, &*base)?;
    let shape = base.shape()?;
    let config = Config::read(&*base)?;
    let mut settings = settings(args, method, &config, train.len())?;
    if args.dry_run || args.max_memory.is_some() {
        let mut estimate = estimated(&settings, &config, &*base, precision, [&train, &valid]);
        if let Some(limit) = args.max_memory {
            estimate = estimate.within((limit * f64::from(1 << 30)) as u64)?;
            settings.recomputed = estimate.recomputed;
        }
        if args.dry_run {
            println!("{estimate}");
            return Ok(());
        }
    }
    let folder = run.folder(&args.output)?;
    let model = Model::from_base(&*base, precision, device)?;
    eprintln!(
        "{} rows to train on, {} to validate; {} layers of {} heads; {}, {}",
        train.len(),
        valid.len(),
        model.config.n_layer,
        model.config.n_head,
        precision.name(),
        match device {
            Device::Cpu => format!("{threads} CPU threads"),
            other => format!("{other:?}"),
        }
    );
    let mut trainer = Trainer::new(&model, &settings, &train, &valid)?;
    let provenance = provenance(args, &*base, &settings, machine, train.len())?;
    let digest = provenance.base_sha256.clone();
    let n_rows = [train.len(), valid.len()];
    let config = run_config(args, &*base, &settings, machine, digest, n_rows)?;
    let (run_dir, state) = run.begin(&folder, config)?;
    let mut done = 0;
    if let Some(state) = state {
        trainer.restore(&state)?;
        done = state.counters.step;
        eprintln!("{}: continuing after step {done}", folder.display());
    }
    let reporter = Reporter::new(settings.steps, trainer.n_gates(), done);
    let mut watcher = Watcher::new(reporter, run_dir);
    let trained = trainer.run(&mut watcher);
    let run_dir = watcher.run_dir;
    if let Err(error) = run_dir.draw(model.config.n_layer, model.config.n_head) {
        eprintln!("warning: {error:#}");
    }
    let (trained, outcome) = trained.with_context(|| match run_dir.saved_step() {
        Some(step) => format!(
            "the run stopped; its state after step {step} is in {}",
            folder.display()
        ),
        None => "the run stopped before its first checkpoint".to_owned(),
    })?;
    let written = match &trained {
        Trained::Edits(edits) => {
            let sidecar = export::to_sidecar(edits, &shape, provenance);
            sidecar.write(&args.output)?;
            let stats = sidecar.stats();
            format!(
                "{} of {} heads edited ({} scales, {} offsets)",
                stats.edited_heads, stats.heads, stats.open_mul, stats.open_add
            )
        }
        Trained::Lora(lora) => {
            lora_file::write(lora, &shape.architecture, &provenance, &args.output)?;
            format!(
                "a LoRA adapter of {} numbers, rank {}, on {}",
                lora.n_parameters(),
                lora.config.rank,
                lora.config.targets.join(", ")
            )
        }
    };
    run_dir.finish()?;
    report(&outcome);
    eprintln!("wrote {}: {written}", args.output.display());
    eprintln!("trained in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// What the run would take, without its model.
fn estimated(
    settings: &Settings,
    config: &Config,
    base: &dyn Base,
    precision: Precision,
    rows: [&[Sequence]; 2],
) -> Estimate {
    let sizes = match &settings.method {
        Method::Lora(lora) => [lora.n_trainable(base, config.n_layer), 0],
        method => {
            let sizes = [config.n_layer as i64, config.n_head as i64];
            let head_rms = Tensor::ones(sizes, (precision.math, Device::Cpu));
            let Settings { seed, recipe, .. } = *settings;
            let edits = Edits::new(
                method.clone(),
                config.head_dim,
                &head_rms,
                recipe.init,
                seed,
            );
            let gates = if method.gated() { edits.n_gates() } else { 0 };
            [edits.n_trainable(), gates]
        }
    };
    let (plan, sampler) = (settings.plan(), settings.sampler(rows[0].len()));
    estimate::estimate(base, config, precision, rows, sampler, plan, sizes)
}

/// Finds out before the training whether the output can be written.
fn check_output(output: &Path) -> Result<()> {
    ensure!(
        !output.is_dir(),
        "cannot write {}: it is a folder",
        output.display()
    );
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    tempfile::tempfile_in(folder)
        .map(drop)
        .with_context(|| format!("cannot write {}", output.display()))
}

/// Training and validation rows as tokens.
fn read_data(args: &TrainArgs, base: &dyn Base) -> Result<(Vec<Sequence>, Vec<Sequence>)> {
    let config = Config::read(base)?;
    let max_length = args.max_length.unwrap_or(config.n_context);
    let vocabulary = base.vocabulary()?;
    let encode = |path: &Path, limit| -> Result<Vec<Sequence>> {
        let Encoded {
            sequences,
            too_long,
        } = dataset::encode_file(path, limit, args.chat, max_length, &*vocabulary)?;
        if !too_long.is_empty() {
            eprintln!(
                "{}: left out {} rows of more than {max_length} tokens, lines {}",
                path.display(),
                too_long.len(),
                list(&too_long)
            );
        }
        Ok(sequences)
    };
    let rows = encode(&args.data, args.limit)?;
    match &args.valid {
        Some(path) => Ok((rows, encode(path, None)?)),
        None => Ok(dataset::split(rows, args.valid_share, args.seed)),
    }
}

/// Numbers separated by commas, at most the first 20.
fn list(numbers: &[usize]) -> String {
    let shown: Vec<String> = numbers.iter().take(20).map(usize::to_string).collect();
    let more = if numbers.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    shown.join(", ") + more
}

fn settings(
    args: &TrainArgs,
    options: &MethodArgs,
    config: &Config,
    n_rows: usize,
) -> Result<Settings> {
    let method = options.method(args.lambda, config)?;
    let sampler = Sampler {
        n_rows,
        batch_size: args.batch_size,
        seed: args.seed,
    };
    let paper = options.recipe == RecipeName::Paper;
    let of_gates = [
        ("--recipe paper", paper),
        ("--sparsity", args.sparsity.is_some()),
        ("--gate-lr", args.gate_lr.is_some()),
        (
            "--lambda",
            args.lambda.is_some() && !matches!(method, Method::Lofit { .. }),
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
            args.gate_lr.is_none(),
            "--recipe paper trains gates at --lr"
        );
        ensure!(
            args.sparsity.is_none(),
            "--recipe paper goes by --lambda, not --sparsity"
        );
    }
    let epochs = args.epochs.unwrap_or(if paper { 20 } else { 12 });
    let steps = args.steps.unwrap_or(epochs * sampler.steps_per_epoch());
    let epochs = steps.div_ceil(sampler.steps_per_epoch());
    let lr = if paper { PAPER_LR } else { method.default_lr() };
    Ok(Settings {
        lr: args.lr.unwrap_or(lr),
        method,
        sparsity: match args.lambda {
            Some(lambda) => Sparsity::Lambda(lambda),
            None if paper => Sparsity::Lambda(PAPER_LAMBDA),
            None => Sparsity::Target(args.sparsity.unwrap_or(0.9)),
        },
        steps,
        batch_size: args.batch_size,
        gate_lr: args.gate_lr,
        patience: args.patience.unwrap_or(if paper { 2 } else { 3 }),
        recomputed: 0,
        seed: args.seed,
        recipe: match options.recipe {
            RecipeName::Default => Recipe::default(),
            RecipeName::Paper => Recipe::paper(steps, epochs, config.n_head),
        },
    })
}

/// Everything that was set, and what tells whether a run is the same.
fn run_config(
    args: &TrainArgs,
    base: &dyn Base,
    settings: &Settings,
    machine: Machine,
    base_sha256: Option<String>,
    [rows, valid_rows]: [usize; 2],
) -> Result<RunConfig> {
    let mut config = RunConfig::default();
    config.set("version", env!("CARGO_PKG_VERSION"));
    config.set("base", &args.model);
    let tensors = || run_config::tensors_sha256(base);
    config.set("base_sha256", base_sha256.unwrap_or_else(tensors));
    config.set("data", &args.data);
    config.set("data_sha256", sidecar::sha256(&args.data)?);
    config.set("rows", rows);
    if let Some(valid) = &args.valid {
        config.set("valid", valid);
        config.set("valid_sha256", sidecar::sha256(valid)?);
    }
    config.set("valid_rows", valid_rows);
    config.set("chat", args.chat);
    config.set("output", &args.output);
    config.set_all(settings);
    config.set("dtype", machine.precision.name());
    config.set("threads", machine.threads);
    config.set("device", format!("{:?}", machine.device).to_lowercase());
    Ok(config)
}

/// Where the sidecar comes from; nothing in it changes between two runs of one command.
fn provenance(
    args: &TrainArgs,
    base: &dyn Base,
    settings: &Settings,
    machine: Machine,
    n_rows: usize,
) -> Result<Provenance> {
    let stem = |path: &Path| {
        path.file_stem()
            .map_or(String::new(), |s| s.to_string_lossy().into())
    };
    let mut train = Metadata::new();
    let mut note = |key: &str, value: jola_edit::gguf::Value| train.insert(key, value);
    note("version", env!("CARGO_PKG_VERSION").into())?;
    if args.model.is_file() {
        // What llama-jola compares at every start, where hashing the base would take too long.
        note("base_bytes", std::fs::metadata(&args.model)?.len().into())?;
    }
    note("data_sha256", sidecar::sha256(&args.data)?.into())?;
    note("rows", (n_rows as u64).into())?;
    note("steps", (settings.steps as u64).into())?;
    note("batch_size", (settings.batch_size as u64).into())?;
    note("lr", settings.lr.into())?;
    if let Some(gate_lr) = settings.gate_lr {
        note("gate_lr", gate_lr.into())?;
    }
    match &settings.method {
        Method::Lofit { heads, l1 } => {
            note("heads", (*heads as u64).into())?;
            note("lambda", (*l1).into())?;
        }
        Method::Lora(lora) => note("lora_rank", (lora.rank as u64).into())?,
        method if method.gated() => match settings.sparsity {
            Sparsity::Target(target) => note("sparsity", target.into())?,
            Sparsity::Lambda(lambda) => note("lambda", lambda.into())?,
        },
        _ => {}
    }
    note("seed", settings.seed.into())?;
    note("dtype", machine.precision.name().into())?;
    note("threads", (machine.threads as u64).into())?;
    let base_name = base
        .metadata()
        .get("general.name")
        .and_then(|name| name.as_str());
    Ok(Provenance {
        name: stem(&args.output),
        base_model_name: base_name.map_or_else(|| stem(&args.model), str::to_owned),
        base_sha256: base.gguf_sha256()?,
        train,
    })
}

fn report(outcome: &Outcome) {
    if let Some(validation) = outcome.validation {
        eprintln!(
            "kept the best: validation loss {:.4}, {:.1} % of rows exact",
            validation.loss,
            validation.exact * 100.0
        );
    }
    let speed = outcome.tokens as f64 / outcome.training_time.as_secs_f64();
    eprintln!("{} training tokens, {speed:.0} tokens/s", outcome.tokens);
}
