//! A training run, from the options to the file that it leaves: prepare, train, write.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::job::Job;
use super::method_args::MethodArgs;
use super::provenance::{provenance, run_config};
use super::results::{NoBetter, Results};
use super::run_args::RunArgs;
use super::train_args::TrainArgs;
use crate::method::{Parameters, Provenance};
use crate::model::Model;
use crate::report::{plots, Reporter, RunDir, Watcher};
use crate::train::{Outcome, Trainer};

/// Trains as the options say.
///
/// # Errors
/// Whatever stopped it, with the file or option concerned.
pub(super) fn train(args: &TrainArgs, method: &MethodArgs, run: &RunArgs) -> Result<()> {
    let start = Instant::now();
    let mut job = Job::prepare(args, method)?;
    if args.dry_run || args.max_memory.is_some() {
        let estimate = job.fit_into_memory(args.max_memory)?;
        if args.dry_run {
            writeln!(std::io::stdout(), "{estimate}").context("writing to standard output")?;
            return Ok(());
        }
    }
    let folder = run.folder(&args.output)?;
    let model = job.load_model()?;
    let mut trainer = Trainer::new(&model, &job.settings, &job.train, &job.valid)?;
    let provenance = provenance(&job)?;
    let run_dir = begin(&job, run, &folder, &provenance, &mut trainer)?;
    let (parameters, outcome, run_dir) = run_steps(&job, &model, trainer, run_dir)?;
    let results = Results {
        job: &job,
        outcome: &outcome,
        provenance,
    };
    let written = results.write(parameters, run_dir.folder());
    // A result that is refused is kept in the run directory: nothing is left to continue.
    if written
        .as_ref()
        .map_or_else(|error| error.is::<NoBetter>(), |_| true)
    {
        run_dir.finish()?;
    }
    eprintln!("{}", written?);
    eprintln!("trained in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Opens the run directory and brings the trainer to where the run stands.
fn begin(
    job: &Job,
    run: &RunArgs,
    folder: &Path,
    provenance: &Provenance,
    trainer: &mut Trainer,
) -> Result<RunDir> {
    let config = run_config(job, provenance.base_sha256.clone())?;
    let (run_dir, state) = run.begin(folder, config)?;
    if let Some(state) = state {
        trainer.restore(&state)?;
        let done = state.counters.step;
        eprintln!("{}: continuing after step {done}", folder.display());
    }
    Ok(run_dir)
}

/// Does the steps that are left, and draws the run's pictures even where it failed.
fn run_steps(
    job: &Job,
    model: &Model,
    trainer: Trainer,
    run_dir: RunDir,
) -> Result<(Parameters, Outcome, RunDir)> {
    let reporter = Reporter::new(job.settings.steps, trainer.n_gates(), trainer.steps_done());
    let mut watcher = Watcher::new(reporter, run_dir);
    let trained = trainer.run(&mut watcher);
    let run_dir = watcher.run_dir;
    let (n_layer, n_head) = (model.config.n_layer, model.config.n_head);
    if let Err(error) = plots::draw(run_dir.folder(), n_layer, n_head) {
        eprintln!("warning: {error:#}");
    }
    let (parameters, outcome) = trained.with_context(|| match run_dir.saved_step() {
        Some(step) => format!(
            "the run stopped; its state after step {step} is in {}",
            run_dir.folder().display()
        ),
        None => "the run stopped before its first checkpoint".to_owned(),
    })?;
    Ok((parameters, outcome, run_dir))
}
