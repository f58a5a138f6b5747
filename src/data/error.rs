//! Everything that can be wrong with data.

use std::path::PathBuf;

/// A data file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is something else than rows.
    #[error("{} is {what}; {remedy}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Bytes that are no text.
    #[error("{}, line {line}: not valid UTF-8; save the file as UTF-8", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// The file holds no row.
    #[error("{} holds no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A row is wrong.
    #[error("{}, line {line}: {kind}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        kind: RowError,
    },
}

/// What can be wrong with one row.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// Not JSON.
    #[error("not valid JSON: {0}")]
    Json(serde_json::Error),
    /// None of the three forms.
    #[error(
        "unknown form with keys [{}]; expected \"prompt\" and \"completion\", \"messages\", \
         or \"instruction\" and \"answer\"", keys.join(", ")
    )]
    Form {
        /// The keys found.
        keys: Vec<String>,
    },
    /// A key has a value of another type, such as a number for a text.
    #[error("`{key}` is {found}, expected {expected}")]
    Field {
        /// The key, with the message it belongs to.
        key: String,
        /// What kind of value it has.
        found: &'static str,
        /// What kind it should have.
        expected: &'static str,
    },
    /// There is nothing to answer.
    #[error("no completion: `{key}` is missing")]
    NoCompletion {
        /// The key that should hold it.
        key: &'static str,
    },
    /// The answer is an empty text.
    #[error("no completion: `{key}` is empty")]
    EmptyCompletion {
        /// The key that holds it.
        key: &'static str,
    },
    /// The right answer cannot be chosen.
    #[error("the completion \"{completion}\" is not among `choices`")]
    Choices {
        /// The completion.
        completion: String,
    },
    /// A conversation without an answer at its end.
    #[error("no completion: the last message must have the role \"assistant\", not \"{role}\"")]
    LastMessage {
        /// The last message's role, or `none`.
        role: String,
    },
    /// No turn of the assistant has a weight other than 0.
    #[error("nothing to learn: `weight` is 0 for every turn of the assistant")]
    NoWeight,
    /// The form has no place for a key that would change what the model is given.
    #[error("`{key}` has no place in this form of row; {remedy}")]
    NoPlace {
        /// The key.
        key: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The template writes the same without a key: the row would be trained without it.
    #[error(
        "the model's chat template does not write `{key}`: remove it, write it into `content`, \
         or use a base model whose template has a place for it"
    )]
    NotRendered {
        /// The key, with the message it belongs to.
        key: String,
    },
    /// The template opens a turn otherwise than it writes a finished one.
    #[error(
        "the model's chat template opens the assistant's turn with {open:?}, but writes {closed:?} \
         there in a finished conversation, so no conversation shows what the model is to answer; \
         write rows with \"prompt\" and \"completion\" instead, as the model is to see them"
    )]
    OpensOtherwise {
        /// What the model is given where the two differ.
        open: String,
        /// What the finished conversation has there.
        closed: String,
    },
    /// The template fails, or the model has none.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer fails.
    #[error("{0}")]
    Tokens(Box<crate::Error>),
}

impl From<crate::Error> for RowError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::ChatTemplate(reason) => Self::Template(reason),
            other => Self::Tokens(Box::new(other)),
        }
    }
}
