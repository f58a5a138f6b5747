//! The rows that a run reads.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;
use jola_edit::Training;

use super::train_args::TrainArgs;
use crate::base::Base;
use crate::data::{self, Encoded, Encoding};
use crate::model::{Config, Sequence};

/// Training and validation rows as tokens, and what the training rows are to the model; without
/// a file for the validation rows, `split_seed` says which rows are held back.
pub(super) fn read_data(
    args: &TrainArgs,
    split_seed: u64,
    base: &dyn Base,
    config: &Config,
) -> Result<(Vec<Sequence>, Vec<Sequence>, Training)> {
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
    let Some(path) = &args.valid else {
        let (train, valid) = data::split(rows, args.valid_share, split_seed);
        return Ok((train, valid, form));
    };
    let valid = read(path, None)?.rows;
    let trained: HashSet<&Vec<Sequence>> = rows.iter().collect();
    let twins = valid.iter().filter(|row| trained.contains(row)).count();
    if twins > 0 {
        eprintln!(
            "warning: {twins} of the {} rows in {} are also trained on: validation says less \
             about new rows",
            valid.len(),
            path.display()
        );
    }
    Ok((rows.concat(), valid.concat(), form))
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
