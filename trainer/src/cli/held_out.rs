//! How the edits of a run do on test rows, which nothing in it was chosen by.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use jola_edit::Output;
use serde::Serialize;

use super::job::Job;
use super::results::cells;
use crate::data::CachedRows;
use crate::method::Parameters;
use crate::model::{LayerChange, Model};
use crate::report::run_files::{TEST, TEST_ROWS};
use crate::train::{Answers, Measured, Outcome};

/// A test row: what it measured without an edit, then with that of each stage.
#[derive(Serialize)]
struct TestRow {
    /// Cross-entropy summed over its response tokens.
    loss: Vec<f64>,
    /// Whether every response token is the most likely one.
    exact: Vec<bool>,
    /// Whether its answer is the likeliest, where rows choose between a few.
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<Vec<bool>>,
}

/// Measures the model without an edit and each stage's edit on the test rows, of which there must
/// be some, and writes that to `folder`; returns the table.
///
/// # Errors
/// Files that cannot be written.
pub(super) fn measure(
    job: &Job,
    model: &Model,
    outcome: &Outcome,
    parameters: &mut Parameters,
    folder: &Path,
) -> Result<String> {
    let rows = CachedRows::new(&job.test);
    let answers = Answers::of(&job.train);
    let measured = |changes: &[LayerChange]| Measured::new(model, changes, &rows, answers.as_ref());
    let none = LayerChange::none(model.config.n_layer);
    let mut all = vec![measured(&none)];
    for candidate in outcome.candidates.list() {
        candidate.restore(parameters);
        all.push(measured(&parameters.final_changes()));
    }
    let text = table(&all, outcome.chosen, job.test.len());
    let lines = lines(&all, job.test.len());
    for (name, text) in [(TEST, &text), (TEST_ROWS, &lines)] {
        let output = Output::new(folder.join(name), &job.args.inputs())?;
        output.write(|out| out.write_all(text.as_bytes()))?;
    }
    Ok(text)
}

/// One line for the model without an edit, and one for each stage.
fn table(all: &[Measured], written: usize, n_rows: usize) -> String {
    let mut table =
        format!("| {n_rows} test rows | loss | exact | chosen right | |\n|---|---|---|---|---|\n");
    for (index, Measured { result, .. }) in all.iter().enumerate() {
        let stage = index.checked_sub(1);
        let name = stage.map_or("without an edit".to_owned(), |stage| {
            format!("stage {stage}")
        });
        let mark = if stage == Some(written) { "chosen" } else { "" };
        let cells = cells(Some(result));
        let _ = writeln!(table, "| {name} | {cells} | {mark} |");
    }
    table
}

/// One line of JSON for each row.
fn lines(all: &[Measured], n_rows: usize) -> String {
    let rows = (0..n_rows).map(|row| TestRow {
        loss: all.iter().map(|one| one.scores.losses[row]).collect(),
        exact: all.iter().map(|one| one.scores.exact[row]).collect(),
        chosen: all
            .iter()
            .map(|one| Some(one.chosen.as_ref()?[row]))
            .collect(),
    });
    let line = |row: TestRow| serde_json::to_string(&row).expect("plain data") + "\n";
    rows.map(line).collect()
}
