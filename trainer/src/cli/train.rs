//! A training run, from the options to the file that it leaves: prepare, train, write.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use jola_edit::Output;

use super::held_out;
use super::job::Job;
use super::method_args::MethodArgs;
use super::out_of_memory::guard;
use super::provenance::{provenance, run_config};
use super::results::{NoBetter, Results};
use super::run_args::RunArgs;
use super::train_args::TrainArgs;
use crate::method::Provenance;
use crate::model::Model;
use crate::report::{plots, Reporter, RunDir, Watcher};
use crate::train::{State, Trainer};

/// Trains as the options say.
///
/// # Errors
/// Whatever stopped it, with the file or option concerned.
pub(super) fn train(args: &TrainArgs, method: &MethodArgs, run: &RunArgs) -> Result<()> {
    let start = Instant::now();
    let inputs = args.inputs();
    let output = Output::new(&args.output, &inputs)?;
    if args.dry_run {
        let estimate = Job::prepare(args, method, None)?.fit_into_memory()?;
        writeln!(std::io::stdout(), "{estimate}").context("writing to standard output")?;
        return Ok(());
    }
    let folder = run.folder(&args.output, &inputs)?;
    let mut job = Job::prepare(args, method, run.split_seed(&folder)?)?;
    let estimate = job.fit_into_memory()?;
    if estimate.dense_matrices > 0 {
        let count = estimate.dense_matrices;
        eprintln!("note: {count} matrices have a format that cannot stay quantised");
    }
    let bytes = estimate.memory.device(estimate.recomputed);
    guard(bytes, || load_and_train(&job, run, &folder, &output))?;
    eprintln!("trained in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Loads the model and trains.
fn load_and_train(job: &Job, run: &RunArgs, folder: &Path, output: &Output) -> Result<()> {
    let model = job.load_model()?;
    let mut trainer = Trainer::new(&model, &job.settings, &job.train, &job.valid)?;
    let provenance = provenance(job)?;
    let run_dir = begin(job, run, folder, &provenance, &mut trainer)?;
    let reporter = Reporter::new(job.settings.steps, trainer.n_gates(), trainer.steps_done());
    let mut watcher = Watcher::new(reporter, run_dir);
    let done = finish(job, &model, trainer, &mut watcher, provenance, output);
    let (n_layer, n_head) = (model.config.n_layer, model.config.n_head);
    let drawn = plots::draw(folder, n_layer, n_head);
    // A result that is refused lies in the run directory: nothing is left to continue.
    if came_to_an_end(&done) {
        watcher.run_dir.finish()?;
    }
    let written = done?;
    if let Err(error) = drawn {
        eprintln!("warning: {error:#}");
    }
    eprintln!("{written}");
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
    let config = run_config(job, &run.options, provenance.base_sha256.clone())?;
    let (run_dir, state) = run.begin(folder, config)?;
    if let Some(state) = state {
        trainer.restore(&state)?;
        let done = state.counters.step;
        eprintln!("{}: continuing after step {done}", folder.display());
    }
    Ok(run_dir)
}

/// Does the steps that are left and writes their result; returns what it is, for the user.
fn finish(
    job: &Job,
    model: &Model,
    trainer: Trainer,
    watcher: &mut Watcher,
    provenance: Provenance,
    output: &Output,
) -> Result<String> {
    let trained = trainer.run(watcher);
    let run_dir = &mut watcher.run_dir;
    let (mut parameters, outcome) = trained.with_context(|| match run_dir.saved_step() {
        Some(step) => format!(
            "the run stopped; its state after step {step} is in {}",
            run_dir.folder().display()
        ),
        None => "the run stopped before its first checkpoint".to_owned(),
    })?;
    let results = Results {
        job,
        outcome: &outcome,
        provenance,
        output,
    };
    let written = results.write(&mut parameters, run_dir.folder());
    if !came_to_an_end(&written) {
        return written.map_err(|error| error.context(keep(run_dir, watcher.last.take())));
    }
    if !job.test.is_empty() {
        // The result is safe by now.
        match held_out::measure(job, model, &outcome, &mut parameters, run_dir.folder()) {
            Ok(table) => eprint!("{table}"),
            Err(error) => eprintln!("warning: no test of the result: {error:#}"),
        }
    }
    written
}

/// Whether a run wrote its result, or refused it.
fn came_to_an_end(done: &Result<String>) -> bool {
    done.as_ref()
        .map_or_else(|error| error.is::<NoBetter>(), |_| true)
}

/// Keeps the state of a run whose result cannot be written; returns how to get the result.
fn keep(run_dir: &mut RunDir, state: Option<State>) -> String {
    // Where this fails as well, the last checkpoint stands.
    let kept = state.is_some_and(|state| run_dir.checkpoint(&state).is_ok());
    let folder = run_dir.folder().display();
    match run_dir.saved_step() {
        Some(_) if kept => format!(
            "all steps are done, but the result cannot be written; it is kept in {folder}, from \
             where the same command with --resume writes it (to another -o with --run-dir {folder})"
        ),
        Some(step) => format!(
            "all steps are done, but the result cannot be written; the state after step {step} \
             is in {folder}, from where the same command with --resume goes on"
        ),
        None => {
            "all steps are done, but neither the result nor a checkpoint can be written".to_owned()
        }
    }
}
