//! What a run reads, and whether its result can be written.

use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::train_args::TrainArgs;
use crate::base::Base;
use crate::data::{self, Encoded};
use crate::model::{Config, Sequence};

/// Finds out before the training whether the output can be written.
pub(super) fn check_output(output: &Path) -> Result<()> {
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
pub(super) fn read_data(
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
        } = data::encode_file(path, limit, args.chat, max_length, &*vocabulary)?;
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
        None => Ok(data::split(rows, args.valid_share, args.seed)),
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
