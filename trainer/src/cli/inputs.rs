//! The rows that a run reads.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jola_edit::Training;

use super::train_args::TrainArgs;
use crate::base::Base;
use crate::data::{self, Encoded, Encoding};
use crate::model::{Config, Sequence};
use crate::train::Answers;

/// The rows of a run, as tokens.
pub(super) struct Rows {
    /// To train on.
    pub train: Vec<Sequence>,
    /// To validate with.
    pub valid: Vec<Sequence>,
    /// To measure the results on.
    pub test: Vec<Sequence>,
    /// What the training rows are to the model.
    pub form: Training,
}

/// Reads the rows; without a file for the validation rows, `split_seed` says which of the others
/// are held back.
pub(super) fn read_data(
    args: &TrainArgs,
    split_seed: u64,
    base: &dyn Base,
    config: &Config,
) -> Result<Rows> {
    let encoding = Encoding {
        chat: args.chat,
        turns: args.turns.into(),
        max_length: args.max_length.unwrap_or(config.n_context),
    };
    let vocabulary = base.vocabulary()?;
    let read = |path: &Path, limit| -> Result<Encoded> {
        let encoded = data::encode_file(path, limit, encoding, &*vocabulary)?;
        tell(path, &encoded, encoding.max_length);
        Ok(encoded)
    };
    let Encoded { rows, form, .. } = read(&args.data, args.limit)?;
    // Warns of rows that are among those that are `known`.
    let read_apart = |path: &Option<PathBuf>, known: &HashSet<_>, known_as: &str| {
        let Some(path) = path else {
            return Ok(Vec::new());
        };
        let rows = read(path, None)?.rows;
        let twins = rows.iter().filter(|row| known.contains(row)).count();
        if twins > 0 {
            let (all, path) = (rows.len(), path.display());
            eprintln!("warning: {twins} of the {all} rows in {path} are also {known_as}");
        }
        anyhow::Ok(rows)
    };
    let mut known: HashSet<&Vec<Sequence>> = rows.iter().collect();
    let known_as = "trained on: validation says less about new rows";
    let valid = read_apart(&args.valid, &known, known_as)?;
    known.extend(&valid);
    let known_as = "trained on or validated with: this test says less about new rows";
    let test = read_apart(&args.test, &known, known_as)?;
    let (train, valid) = match &args.valid {
        Some(_) => (rows.concat(), valid.concat()),
        None => data::split(rows, args.valid_share, split_seed),
    };
    if Answers::all_alike(&train) {
        eprintln!(
            "warning: all rows to train on have the same answer: the edit will give it to any prompt"
        );
    }
    Ok(Rows {
        train,
        valid,
        test: test.concat(),
        form,
    })
}

/// Says what of a file is not learned.
fn tell(path: &Path, encoded: &Encoded, max_length: usize) {
    let Encoded {
        too_long, notes, ..
    } = encoded;
    if !too_long.is_empty() {
        eprintln!(
            "{}: left out {} rows of more than {max_length} tokens, lines {}",
            path.display(),
            too_long.len(),
            list(too_long)
        );
    }
    for (note, lines) in notes {
        eprintln!(
            "warning: {}, {} rows (lines {}): {}",
            path.display(),
            lines.len(),
            list(lines),
            note.text()
        );
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
