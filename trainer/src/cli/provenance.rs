//! What the result and the run directory say about where they come from.

use std::path::Path;

use anyhow::Result;
use jola_edit::gguf::Metadata;
use jola_edit::{sidecar, Training};

use super::config_file::Options;
use super::job::Job;
use super::machine::device_names;
use crate::base::tensors_sha256;
use crate::method::{ClosedShares, Method, Provenance, Sparsity};
use crate::report::{RunConfig, OPTIONS, SPLIT_SEED};
use crate::train::{Candidate, Outcome};

/// Everything that was set, and what tells whether a run is the same.
pub(super) fn run_config(
    job: &Job,
    options: &Options,
    base_sha256: Option<String>,
) -> Result<RunConfig> {
    let Job { args, machine, .. } = job;
    let mut config = RunConfig::default();
    config.set("version", env!("CARGO_PKG_VERSION"));
    config.set(OPTIONS, options);
    config.set("base", &args.model);
    let tensors = || tensors_sha256(&*job.base);
    config.set("base_sha256", base_sha256.unwrap_or_else(tensors));
    config.set("data", &args.data);
    config.set("data_sha256", sidecar::sha256(&args.data)?);
    config.set("rows", job.train.len());
    match &args.valid {
        Some(valid) => {
            config.set("valid", valid);
            config.set("valid_sha256", sidecar::sha256(valid)?);
        }
        None => config.set(SPLIT_SEED, job.split_seed),
    }
    config.set("valid_rows", job.valid.len());
    if let Some(test) = &args.test {
        config.set("test", test);
    }
    config.set("chat", args.chat);
    config.set("turns", args.turns);
    config.set("output", &args.output);
    config.set_all(&job.settings);
    config.set("dtype", machine.precision.name());
    let blocks = machine.precision.blocks;
    config.set("weights", if blocks { "quantised" } else { "dense" });
    config.set("threads", machine.threads);
    config.set("device", device_names(&machine.devices));
    Ok(config)
}

/// Where the sidecar comes from; nothing in it changes between two runs of one command.
pub(super) fn provenance(job: &Job) -> Result<Provenance> {
    let Job { args, settings, .. } = job;
    let stem = |path: &Path| {
        path.file_stem()
            .map_or(String::new(), |s| s.to_string_lossy().into())
    };
    let mut train = Metadata::new();
    let mut note = |key: &str, value: jola_edit::gguf::Value| train.insert(key, value);
    note("version", env!("CARGO_PKG_VERSION").into())?;
    note("data_sha256", sidecar::sha256(&args.data)?.into())?;
    note("rows", (job.train.len() as u64).into())?;
    note("steps", (settings.steps as u64).into())?;
    note("batch_size", (settings.batch_size as u64).into())?;
    if settings.kl > 0.0 {
        note("kl", settings.kl.into())?;
    }
    if let Some(gate_lr) = settings.gate_lr {
        note("gate_lr", gate_lr.into())?;
    }
    match &settings.method {
        Method::Lofit { heads, l1 } => {
            note("heads", (*heads as u64).into())?;
            note("lambda", (*l1).into())?;
        }
        Method::Lora(lora) => note("lora_rank", (lora.rank as u64).into())?,
        _ => {}
    }
    note("seed", settings.seed.into())?;
    note("dtype", job.machine.precision.name().into())?;
    note("threads", (job.machine.threads as u64).into())?;
    // What is compared at every start, where hashing the base would take too long.
    let training = Training {
        base: job.base.weights()?,
        ..job.form.clone()
    };
    training.note(&mut train)?;
    let base_name = job
        .base
        .metadata()
        .get("general.name")
        .and_then(|name| name.as_str());
    Ok(Provenance {
        name: stem(&args.output),
        base_model_name: base_name.map_or_else(|| stem(&args.model), str::to_owned),
        base_sha256: job.base.gguf_sha256()?,
        train,
    })
}

/// Adds what only the run itself could tell about the candidate of this stage: its rate, and
/// how many gates it closed.
pub(super) fn add_outcome(
    provenance: &mut Provenance,
    job: &Job,
    outcome: &Outcome,
    stage: usize,
) -> Result<()> {
    let settings = &job.settings;
    let mut note = |key: &str, value: jola_edit::gguf::Value| provenance.train.insert(key, value);
    note("lr", outcome.rate.into())?;
    let Candidate { level, result, .. } = outcome.candidates.list()[stage];
    if let (Some(unedited), Some(result)) = (outcome.unedited, result) {
        note("unedited", unedited.result.to_string().as_str().into())?;
        note("validation", result.to_string().as_str().into())?;
    }
    if settings.method.gated() {
        if let Some(ClosedShares { scale, offset }) = settings.target(level) {
            note("sparsity", scale.into())?;
            note("sparsity_offset", offset.into())?;
        } else if let Sparsity::Lambda(lambda) = settings.sparsity {
            note("lambda", lambda.into())?;
        }
    }
    Ok(())
}
