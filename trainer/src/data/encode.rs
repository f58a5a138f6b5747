//! From data files to token sequences; what is too long is left out.

use std::collections::BTreeMap;
use std::path::Path;

use jola_edit::sidecar::{RowFormat, Training};
use llama_jola::data::{self, DataError, Note, Row, Turns};
use llama_jola::Vocabulary;

use crate::model::Sequence;
use crate::Error;

/// How rows become sequences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    /// Plain prompts go through the chat template, as one user message.
    pub chat: bool,
    /// Which of the assistant's turns are learned.
    pub turns: Turns,
    /// Rows of more tokens are left out.
    pub max_length: usize,
}

/// Rows of a file as sequences.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The rows that fit: one sequence each, or several where the chat template writes a turn
    /// otherwise as soon as others follow it.
    pub rows: Vec<Vec<Sequence>>,
    /// Lines of the file whose rows are longer than the limit: left out, never cut.
    pub too_long: Vec<usize>,
    /// What of the rows' responses is not learned, and in which lines.
    pub notes: BTreeMap<Note, Vec<usize>>,
    /// What the rows are to the model, for the result's own notes.
    pub form: Training,
}

/// Reads and tokenises a data file.
///
/// # Errors
/// Those of the data, the template and the tokenizer; [`Error::NoRows`] when nothing fits.
pub(crate) fn encode_file(
    path: &Path,
    limit: Option<usize>,
    encoding: Encoding,
    vocabulary: &dyn Vocabulary,
) -> Result<Encoded, Error> {
    let mut rows = data::read_rows(path, limit)?;
    if encoding.chat {
        rows = rows.into_iter().map(Row::into_chat).collect();
    }
    let template = match rows.iter().any(Row::is_chat) {
        true => Some(vocabulary.chat()?),
        false => None,
    };
    let max_length = encoding.max_length;
    let mut encoded = Encoded {
        rows: Vec::with_capacity(rows.len()),
        too_long: Vec::new(),
        notes: BTreeMap::new(),
        form: Training {
            format: Some(format(&rows)),
            template_sha256: template
                .as_ref()
                .map(|template| template.sha256().to_owned()),
            turns: template.as_ref().map(|_| encoding.turns.name().to_owned()),
            ..Training::default()
        },
    };
    for row in &rows {
        let examples = data::encode(row, vocabulary, template.as_ref(), encoding.turns);
        let examples = examples.map_err(|kind| DataError::Row {
            path: path.to_path_buf(),
            line: row.line,
            kind,
        })?;
        if examples
            .iter()
            .any(|example| example.tokens.len() > max_length)
        {
            encoded.too_long.push(row.line);
            continue;
        }
        for note in examples.iter().flat_map(|example| &example.notes) {
            let lines = encoded.notes.entry(*note).or_default();
            if lines.last() != Some(&row.line) {
                lines.push(row.line);
            }
        }
        let sequences = examples.into_iter().map(|example| Sequence {
            tokens: example.tokens.into_iter().map(i64::from).collect(),
            targets: example.targets,
        });
        encoded.rows.push(sequences.collect());
    }
    if encoded.rows.is_empty() {
        return Err(Error::NoRows {
            path: path.to_path_buf(),
            max_length,
        });
    }
    Ok(encoded)
}

fn format(rows: &[Row]) -> RowFormat {
    match rows.iter().filter(|row| row.is_chat()).count() {
        0 => RowFormat::Plain,
        chat if chat == rows.len() => RowFormat::Chat,
        _ => RowFormat::Mixed,
    }
}
