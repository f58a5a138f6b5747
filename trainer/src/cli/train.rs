//! A run of the command line, from the options to the file that it leaves.

use std::io::Write;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use jola_edit::gguf::Metadata;
use jola_edit::sidecar;
use tch::{Device, Tensor};

use crate::base::tensor::{open, Base};
use crate::model::batch::Sequence;
use crate::cli::command::TrainArgs;
use crate::model::config::Config;
use crate::data::encode::{self, Encoded};
use crate::cli::device::set_threads;
use crate::method::edits::Edits;
use crate::train::estimate::{self, Estimate};
use crate::method::export::{self, Provenance};
use crate::method::lora_file;
use crate::method::methods::Method;
use crate::cli::method_args::MethodArgs;
use crate::model::decoder::{Model, Precision};
use crate::train::penalty::{Shares, Sparsity};
use crate::report::progress::Reporter;
use crate::train::recipe::Settings;
use crate::cli::run_args::RunArgs;
use crate::report::run_config::{self, RunConfig};
use crate::train::trainer::{Outcome, Trainer};
use crate::method::parameters::Trained;
use crate::report::watcher::Watcher;

/// What a run computes on, and how.
#[derive(Clone, Copy)]
struct Machine {
    device: Device,
    precision: Precision,
    threads: usize,
}

/// Trains as the options say.
///
/// # Errors
/// Whatever stopped it, with the file or option concerned.
pub(crate) fn train(args: &TrainArgs, method: &MethodArgs, run: &RunArgs) -> Result<()> {
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
    let base = open(&args.model)?;
    // First: it names the architecture if that is what cannot be read.
    let config = Config::read(&*base)?;
    let shape = base.shape()?;
    let (train, valid) = read_data(args, &*base, &config)?;
    let mut settings = args.settings(method, &config, train.len())?;
    if args.dry_run || args.max_memory.is_some() {
        let mut estimate = estimated(&settings, &config, &*base, precision, [&train, &valid]);
        if let Some(limit) = args.max_memory {
            estimate = estimate.within((limit * f64::from(1 << 30)) as u64)?;
            settings.recomputed = estimate.recomputed;
        }
        if args.dry_run {
            writeln!(std::io::stdout(), "{estimate}").context("writing to standard output")?;
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
fn read_data(
    args: &TrainArgs,
    base: &dyn Base,
    config: &Config,
) -> Result<(Vec<Sequence>, Vec<Sequence>)> {
    let max_length = args.max_length.unwrap_or(config.n_context);
    let vocabulary = base.vocabulary()?;
    let read = |path: &Path, limit| -> Result<Vec<Sequence>> {
        let Encoded {
            sequences,
            too_long,
        } = encode::encode_file(path, limit, args.chat, max_length, &*vocabulary)?;
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
    let rows = read(&args.data, args.limit)?;
    match &args.valid {
        Some(path) => Ok((rows, read(path, None)?)),
        None => Ok(encode::split(rows, args.valid_share, args.seed)),
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
            Sparsity::Target(Shares { scale, offset }) => {
                note("sparsity", scale.into())?;
                note("sparsity_offset", offset.into())?;
            }
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
