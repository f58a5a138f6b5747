//! What a run leaves: the file that was asked for, the other stages of its path, and how it
//! stands against the unedited model.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jola_edit::Output;

use super::job::Job;
use super::provenance::add_outcome;
use crate::method::{export, lora_file, Parameters, Provenance};
use crate::report::run_files::{stage_file, PATH, PATH_TABLE, REFUSED};
use crate::train::{Outcome, StageResult, Verdict};

/// The run ended, and what it learned is no better than the unedited model.
#[derive(Debug, thiserror::Error)]
#[error(
    "the model without an edit does better on the validation rows ({unedited}) than with what \
     was learned ({edited}): {} was not written, the edit is in {}; more rows, or another \
     --lr, may help",
    .output.display(), .kept.display()
)]
pub struct NoBetter {
    unedited: String,
    edited: String,
    output: PathBuf,
    kept: PathBuf,
}

/// A run that is done.
pub(super) struct Results<'a> {
    pub job: &'a Job<'a>,
    pub outcome: &'a Outcome,
    /// What was known before the run.
    pub provenance: Provenance,
    /// Where the result goes.
    pub output: &'a Output,
}

impl Results<'_> {
    /// Writes the result, and the stages of a path to the run directory `folder`; returns what
    /// to tell the user.
    ///
    /// # Errors
    /// Files that cannot be written; [`NoBetter`].
    pub fn write(mut self, parameters: &mut Parameters, folder: &Path) -> Result<String> {
        let Outcome {
            chosen,
            ref candidates,
            ref training_time,
            tokens,
            verdict,
            ..
        } = *self.outcome;
        let path = candidates.list().len() > 1;
        let path = path.then(|| self.measure(parameters));
        if let Some(numbers) = &path {
            self.note_path(numbers)?;
            self.write_path(parameters, numbers, folder)?;
        }
        let output = self.output;
        let own = self.outcome.chosen();
        let mut text = String::new();
        if let (Some(Verdict::NoBetter), Some(unedited), Some(edited)) =
            (verdict, self.outcome.unedited, own.result)
        {
            let kept = folder.join(REFUSED);
            self.write_stage(parameters, chosen, &Output::without_inputs(&kept)?)?;
            return Err(NoBetter {
                unedited: unedited.result.to_string(),
                edited: edited.to_string(),
                output: output.path().to_path_buf(),
                kept,
            }
            .into());
        }
        let written = self.write_stage(parameters, chosen, output)?;
        if let Some(result) = own.result {
            writeln!(text, "kept the best: validation {result}")?;
        }
        if verdict == Some(Verdict::Guesses) {
            writeln!(
                text,
                "warning: as good as guessing: by the validation loss, the answers are picked \
                 by how often each is right, whatever the question"
            )?;
        }
        let speed = tokens as f64 / training_time.as_secs_f64();
        writeln!(text, "{tokens} training tokens, {speed:.0} tokens/s")?;
        write!(text, "wrote {}: {written}", output.path().display())?;
        Ok(text)
    }

    /// How many numbers each stage keeps.
    fn measure(&self, parameters: &mut Parameters) -> Vec<usize> {
        let candidates = self.outcome.candidates.list().iter();
        let numbers = candidates.map(|candidate| {
            candidate.restore(parameters);
            parameters.n_kept()
        });
        numbers.collect()
    }

    /// Lets every edit of a path tell of the others.
    fn note_path(&mut self, numbers: &[usize]) -> Result<()> {
        let stages = self.outcome.candidates.list().iter().zip(numbers);
        let stages = stages.map(|(candidate, numbers)| match candidate.result {
            Some(result) => format!("{numbers}: {result}"),
            None => numbers.to_string(),
        });
        let text = stages.collect::<Vec<_>>().join("; ");
        Ok(self.provenance.train.insert("path", text.as_str())?)
    }

    /// Writes each stage's sidecar and the table of all.
    fn write_path(
        &self,
        parameters: &mut Parameters,
        numbers: &[usize],
        folder: &Path,
    ) -> Result<()> {
        let folder = folder.join(PATH);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut table = String::from(
            "| stage | numbers kept | bytes | validation loss | exact | chosen right | |\n\
             |---|---|---|---|---|---|---|\n",
        );
        let stages = self.outcome.candidates.list().iter().zip(numbers);
        for (stage, (candidate, numbers)) in stages.enumerate() {
            let path = folder.join(stage_file(stage));
            self.write_stage(parameters, stage, &Output::without_inputs(&path)?)?;
            let bytes = fs::metadata(&path).map_or(0, |file| file.len());
            let cells = cells(candidate.result.as_ref());
            let mark = if stage == self.outcome.chosen {
                "written"
            } else {
                ""
            };
            writeln!(
                table,
                "| {stage} | {numbers} | {bytes} | {cells} | {mark} |"
            )?;
        }
        eprint!("{table}");
        let path = folder.join(PATH_TABLE);
        let output = Output::without_inputs(path)?;
        Ok(output.write(|out| out.write_all(table.as_bytes()))?)
    }

    /// Writes the best of a stage; returns what it is.
    fn write_stage(
        &self,
        parameters: &mut Parameters,
        stage: usize,
        output: &Output,
    ) -> Result<String> {
        let candidate = &self.outcome.candidates.list()[stage];
        candidate.restore(parameters);
        let mut provenance = self.provenance.clone();
        add_outcome(&mut provenance, self.job, self.outcome, stage)?;
        Ok(match &*parameters {
            Parameters::Edits(edits) => {
                let sidecar = export::to_sidecar(edits, &self.job.shape, provenance);
                sidecar.write_output(output)?;
                let stats = sidecar.stats();
                format!(
                    "{} of {} heads edited ({} scales, {} offsets)",
                    stats.edited_heads, stats.heads, stats.open_mul, stats.open_add
                )
            }
            Parameters::Lora(lora) => {
                lora_file::write(lora, &self.job.shape.architecture, &provenance, output)?;
                format!(
                    "a LoRA adapter of {} numbers, rank {}, on {}",
                    lora.n_parameters(),
                    lora.config.rank,
                    lora.config.targets.join(", ")
                )
            }
        })
    }
}

/// Loss, exact rows and rows whose answer is chosen right, as cells of a table; empty where they
/// were not measured.
pub(super) fn cells(result: Option<&StageResult>) -> String {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let cells = [
        result.map(|result| format!("{:.4}", result.validation.loss)),
        result.map(|result| percent(result.validation.exact)),
        result.and_then(|result| result.choice).map(percent),
    ];
    cells.map(Option::unwrap_or_default).join(" | ")
}
