//! Several edits scored in one pass: those of `--each`, or one at the strengths of `--strength`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{bail, Result};
use jola_edit::EditSet;
use llama_jola::eval::{Comparison, Report, Test};
use llama_jola::{Model, Sidecar};
use serde::Serialize;

use super::{shown, EvalArgs};
use crate::cli::args::refuse_strengths;

/// An edit among several.
pub struct Case {
    /// What it is called: its file, or its strength.
    pub name: String,
    /// Of a sweep.
    pub strength: Option<f32>,
    pub edits: EditSet,
}

impl EvalArgs {
    /// The files of `--each`, read.
    pub fn each_sidecars(&self) -> Result<Vec<(PathBuf, Sidecar)>> {
        refuse_strengths(&self.each, "--jola-scaled")?;
        let read = |path: &PathBuf| Ok((path.clone(), Sidecar::read(path)?));
        self.each.iter().map(read).collect()
    }

    /// What is to be scored in one pass; nothing if neither option is given.
    pub fn cases(&self, model: &Model) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for (path, sidecar) in self.each_sidecars()? {
            self.model.check_sidecar(model, &path, &sidecar)?;
            cases.push(Case {
                name: path.display().to_string(),
                strength: None,
                edits: EditSet::compose(&[(&sidecar, 1.0)])?,
            });
        }
        if self.strength.is_empty() {
            return Ok(cases);
        }
        let sidecars = self.model.sidecars()?;
        if sidecars.is_empty() {
            bail!("--strength needs an edit to weaken or strengthen: give --jola");
        }
        for &strength in &self.strength {
            if !strength.is_finite() {
                bail!("--strength {strength}: expected a finite number");
            }
            let pairs: Vec<(&Sidecar, f32)> = sidecars
                .iter()
                .map(|(_, sidecar, own)| (sidecar, own * strength))
                .collect();
            cases.push(Case {
                name: strength.to_string(),
                strength: Some(strength),
                edits: EditSet::compose(&pairs)?,
            });
        }
        Ok(cases)
    }
}

/// What `--json` prints.
#[derive(Serialize)]
pub struct Results {
    /// Without edits, with `--compare`.
    #[serde(skip_serializing_if = "Option::is_none")]
    unedited: Option<Report>,
    cases: Vec<Scored>,
}

#[derive(Serialize)]
struct Scored {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    strength: Option<f32>,
    #[serde(flatten)]
    report: Report,
    #[serde(flatten)]
    against_unedited: Option<Difference>,
}

#[derive(Serialize)]
struct Difference {
    difference: f64,
    difference_ci95: [f64; 2],
    test: Test,
}

impl Results {
    /// `unedited`: the report to compare the others with.
    pub fn new(cases: Vec<Case>, reports: Vec<Report>, unedited: Option<Report>) -> Self {
        let scored = cases.into_iter().zip(reports).map(|(case, report)| Scored {
            name: case.name,
            strength: case.strength,
            against_unedited: unedited.as_ref().map(|unedited| {
                let compared = Comparison::new(unedited.clone(), report.clone());
                Difference {
                    difference: compared.difference,
                    difference_ci95: compared.difference_ci95,
                    test: compared.test,
                }
            }),
            report,
        });
        Self {
            cases: scored.collect(),
            unedited,
        }
    }

    /// All reports with the names that the predictions file has for them.
    pub fn reports(&self) -> impl Iterator<Item = (&str, &Report)> {
        let unedited = self.unedited.iter().map(|report| ("unedited", report));
        let cases = self.cases.iter();
        unedited.chain(cases.map(|case| (case.name.as_str(), &case.report)))
    }

    /// A line for each, with a bar: the curve of a sweep, lying on its side.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let names = self.reports().map(|(name, _)| name.chars().count());
        let width = names.max().unwrap_or(0);
        let scores = || self.reports().map(|(_, report)| report.score);
        let low = scores().fold(0.0, f64::min);
        let high = scores().fold(f64::MIN, f64::max);
        let bar = |score: f64| {
            let share = (score - low) / (high - low);
            // Nothing to draw where all scores are 0.
            let length = if share.is_finite() { share * 24.0 } else { 0.0 };
            "█".repeat(length.round() as usize)
        };
        let unedited = self
            .unedited
            .iter()
            .map(|report| ("unedited", report, None));
        let cases = self.cases.iter().map(|case| {
            let difference = case.against_unedited.as_ref();
            (case.name.as_str(), &case.report, difference)
        });
        for (name, report, difference) in unedited.chain(cases) {
            write!(
                out,
                "{name:<width$}  {:<24}  {}",
                bar(report.score),
                shown(report)
            )?;
            if let Some(Difference {
                difference, test, ..
            }) = difference
            {
                let (Test::Mcnemar { p, .. } | Test::PairedBootstrap { p }) = test;
                write!(out, ", {difference:+.4} (p = {p:.3e})")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    /// The points of a sweep: strength, score and its interval.
    pub fn points(&self) -> Vec<(f32, f64, [f64; 2])> {
        let point = |case: &Scored| Some((case.strength?, case.report.score, case.report.ci95));
        self.cases.iter().filter_map(point).collect()
    }
}
