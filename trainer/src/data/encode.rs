//! From data files to token sequences; what is too long is left out.

use std::path::Path;

use llama_jola::chat::Prompt;
use llama_jola::data::{self, Row};
use llama_jola::Vocabulary;

use crate::model::Sequence;
use crate::Error;

/// Rows of a file as sequences.
#[derive(Debug)]
pub struct Encoded {
    /// The rows that fit.
    pub sequences: Vec<Sequence>,
    /// Lines of the file whose rows are longer than the limit: left out, never cut.
    pub too_long: Vec<usize>,
}

/// Reads and tokenises a data file.
///
/// `chat` sends plain prompts through the chat template as one user message. Rows of more
/// than `max_length` tokens are left out.
///
/// # Errors
/// Those of the data, the template and the tokenizer; [`Error::NoRows`] when nothing fits.
pub fn encode_file(
    path: &Path,
    limit: Option<usize>,
    chat: bool,
    max_length: usize,
    vocabulary: &dyn Vocabulary,
) -> Result<Encoded, Error> {
    let mut rows = data::read_rows(path, limit)?;
    if chat {
        rows = rows.into_iter().map(Row::into_chat).collect();
    }
    let template = match rows.iter().any(|row| matches!(row.prompt, Prompt::Chat(_))) {
        true => Some(vocabulary.chat()?),
        false => None,
    };
    let mut encoded = Encoded {
        sequences: Vec::with_capacity(rows.len()),
        too_long: Vec::new(),
    };
    for row in &rows {
        let example = data::encode(row, vocabulary, template.as_ref())?;
        if example.tokens.len() > max_length {
            encoded.too_long.push(row.line);
            continue;
        }
        encoded.sequences.push(Sequence {
            tokens: example
                .tokens
                .iter()
                .map(|&token| i64::from(token))
                .collect(),
            n_prompt: example.n_prompt,
        });
    }
    if encoded.sequences.is_empty() {
        return Err(Error::NoRows {
            path: path.to_path_buf(),
            max_length,
        });
    }
    Ok(encoded)
}
