//! Why an output cannot be written.

use std::io;
use std::path::PathBuf;

use crate::FileError;

/// An [`OutputErrorKind`] and the output that it concerns.
pub type OutputError = FileError<OutputErrorKind>;

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputErrorKind {
    /// It is a file that the command reads.
    #[error("it is an input of this command{}: choose another output file", spelt(.input))]
    Input {
        /// How the input is spelt, where that is another way.
        input: Option<PathBuf>,
    },
    /// There is a folder of that name.
    #[error("cannot write it: it is a folder")]
    Folder,
    /// The name is empty, or ends as a folder's does.
    #[error("cannot write it: it is no name of a file")]
    NoName,
    /// The folder that it should lie in is not there.
    #[error("cannot write it: there is no folder {}", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// What it should lie in is no folder.
    #[error("cannot write it: {} is no folder", folder.display())]
    NotAFolder {
        /// What is no folder.
        folder: PathBuf,
    },
    /// Its permissions let nobody write to it.
    #[error("cannot write it: it is write-protected")]
    Protected,
    /// A socket, which has no end that could be opened.
    #[error("cannot write it: it is a socket")]
    Socket,
    /// Links that lead nowhere.
    #[error("cannot write it: it is a link that leads in a circle")]
    Circle,
    /// The system refused.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system gave as its reason.
        error: io::Error,
    },
}

impl OutputErrorKind {
    /// For `map_err` on system calls: "cannot `action`: …".
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io {
            action,
            error: bare(error),
        }
    }
}

impl From<OutputErrorKind> for io::Error {
    /// The system's own error, where there is one.
    fn from(kind: OutputErrorKind) -> Self {
        match kind {
            OutputErrorKind::Io { error, .. } => error,
            other => Self::other(other),
        }
    }
}

fn spelt(input: &Option<PathBuf>) -> String {
    input
        .as_ref()
        .map_or(String::new(), |path| format!(" ({})", path.display()))
}

/// The system's own error, without the name of a temporary file that tempfile puts behind it
/// and keeps no other trace of.
fn bare(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.split_once(" at path ") {
        Some((reason, _)) if error.raw_os_error().is_none() => {
            io::Error::new(error.kind(), reason.to_owned())
        }
        _ => error,
    }
}
