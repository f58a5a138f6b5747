//! What can be wrong with a directory in Hugging Face's layout.

use jola_edit::FileError;

/// An [`HfErrorKind`] and the file it was found in.
pub type HfError = FileError<HfErrorKind>;

/// What is wrong with a file of the directory.
#[derive(Debug, thiserror::Error)]
pub enum HfErrorKind {
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, as in "cannot open it".
        action: &'static str,
        /// What the system answered.
        source: std::io::Error,
    },
    /// Not JSON, or not of the expected form.
    #[error("not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A key that must be there.
    #[error("`{key}` is missing")]
    MissingKey {
        /// The key, with its parents.
        key: String,
    },
    /// A value that cannot be used.
    #[error("`{key}` is {found}, expected {expected}")]
    Value {
        /// The key, with its parents.
        key: String,
        /// What it should be.
        expected: String,
        /// What it is, as JSON.
        found: String,
    },
    /// An architecture that the trainer does not cover.
    #[error("architecture `{found}` cannot be trained yet; supported: {supported}")]
    Architecture {
        /// The first of `architectures`.
        found: String,
        /// The architectures that can be trained.
        supported: String,
    },
    /// Weights that are stored in a way that is not read.
    #[error("{what}; expected safetensors in float32, float16 or bfloat16")]
    Weights {
        /// The way in which they are stored.
        what: String,
    },
    /// A shard that the index names is not there.
    #[error("shard {shard} is missing: {tensors} tensors are in it, `{first}` for one")]
    ShardMissing {
        /// The file that is not there.
        shard: String,
        /// How many tensors the shard holds.
        tensors: usize,
        /// The name of one of these tensors.
        first: String,
    },
    /// The file is not as long as its header says.
    #[error("{found} bytes long, expected {expected} by its header: the download is not complete")]
    Length {
        /// Bytes by the header.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// Not a sound safetensors file.
    #[error("not a sound safetensors file: {0}")]
    Header(#[from] safetensors::SafeTensorError),
    /// A tensor that cannot be used.
    #[error("tensor `{name}` {reason}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer cannot be used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}
