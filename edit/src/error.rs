//! What went wrong, and in which file: kept apart so that the same checks serve files and
//! values in memory.

use std::fmt::{Debug, Display};
use std::path::{Path, PathBuf};

/// An error about one file; its text is `<file>: <kind>`.
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", file.display())]
pub struct FileError<K: Debug + Display> {
    /// The file as the caller named it, or `<memory>`.
    pub file: PathBuf,
    /// What is wrong with it.
    pub kind: Box<K>,
}

impl<K: Debug + Display> FileError<K> {
    /// Says that `kind` happened in `file`.
    pub fn new(file: &Path, kind: impl Into<K>) -> Self {
        Self {
            file: file.to_path_buf(),
            kind: Box::new(kind.into()),
        }
    }
}
