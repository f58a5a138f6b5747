//! Every way in which a GGUF file can be wrong.

use std::path::PathBuf;

use super::role::Role;
use crate::output::OutputErrorKind;
use crate::FileError;

/// A [`GgufErrorKind`] and the file it was found in.
pub type GgufError = FileError<GgufErrorKind>;

/// What is wrong with a GGUF file, or with what should become one.
#[derive(Debug, thiserror::Error)]
pub enum GgufErrorKind {
    /// The operating system refused.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried, as in "cannot open".
        action: &'static str,
        /// What the system gave as its reason.
        error: std::io::Error,
    },
    /// There is a folder where the file should be.
    #[error("cannot open it: it is a folder{advice}")]
    Folder {
        /// What to do, as the end of the sentence.
        advice: &'static str,
    },
    /// It is a GGUF file for another purpose.
    #[error("it is {found}, not {expected}: it goes behind {option}")]
    Role {
        /// What it is.
        found: Role,
        /// What was wanted in its place.
        expected: Role,
        /// The option that takes such files.
        option: &'static str,
    },
    /// A later one of the files of a split model, which cannot be read without the first.
    #[error("it is file {number} of {count} of a split model: name the first one{}", called(.first))]
    LaterPart {
        /// Which of the files it is, from 1.
        number: u64,
        /// How many there are.
        count: u64,
        /// The first one, if the name of this one tells.
        first: Option<PathBuf>,
    },
    /// One of the files of a split model cannot be opened.
    #[error("cannot open it, one of the {count} files of a split model: {error}")]
    MissingPart {
        /// How many there are.
        count: u64,
        /// What the system gave as its reason.
        error: std::io::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    Output(#[from] OutputErrorKind),
    /// The file ends before something that it promises.
    #[error("truncated: {what} needs {needed} bytes at offset {offset}, the file has {available}")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it begins, in bytes from the start of the file.
        offset: u64,
        /// Bytes that it takes, as stored before it or fixed by the format.
        needed: u64,
        /// Bytes left in the file.
        available: u64,
    },
    /// The file does not begin with `GGUF`.
    #[error("not a GGUF file: it begins with {found:?}, expected \"GGUF\"{format}")]
    Magic {
        /// The first four bytes as text.
        found: String,
        /// What it looks like instead, as the end of the sentence.
        format: &'static str,
    },
    /// The file was written for big-endian machines.
    #[error("big-endian GGUF: only little-endian files are read, convert it first")]
    BigEndian,
    /// A GGUF version this reader does not know.
    #[error("GGUF version {found}, expected 2 or 3")]
    Version {
        /// The version that the file gives.
        found: u32,
    },
    /// A count or length beyond a limit of this reader.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// What is too large.
        what: String,
        /// The stored or given value.
        found: u64,
        /// The largest accepted value.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not valid UTF-8")]
    Utf8 {
        /// What the text was to be: a key, a name or a value.
        what: String,
    },
    /// A metadata key without a name.
    #[error("an empty metadata key")]
    EmptyKey,
    /// The same metadata key twice.
    #[error("metadata key `{key}` occurs twice")]
    DuplicateKey {
        /// The key with its prefix, as `general.name`.
        key: String,
    },
    /// A value type id that GGUF does not define.
    #[error("metadata key `{key}` has value type {id}, expected 0 to 12")]
    ValueType {
        /// The key with its prefix, as `general.name`.
        key: String,
        /// The stored type id.
        id: u32,
    },
    /// An array of arrays; llama.cpp refuses them too.
    #[error("metadata key `{key}` is an array of arrays, which is not supported")]
    NestedArray {
        /// The key with its prefix, as `general.name`.
        key: String,
    },
    /// A bool stored as something else than 0 or 1.
    #[error("metadata key `{key}` holds the bool {found}, expected 0 or 1")]
    Bool {
        /// The key with its prefix, as `general.name`.
        key: String,
        /// The byte in the bool's place.
        found: u8,
    },
    /// An alignment that is not a power of two.
    #[error("metadata key `general.alignment` is {found}, expected a power of two")]
    Alignment {
        /// The alignment that the file asks for, in bytes.
        found: u32,
    },
    /// A key that must be there is not.
    #[error("metadata key `{key}` is missing")]
    MissingKey {
        /// The key with its prefix, as `general.name`.
        key: String,
    },
    /// A key holds a value of another type than it must.
    #[error("metadata key `{key}` is of type {found}, expected {expected}")]
    KeyType {
        /// The key with its prefix, as `general.name`.
        key: String,
        /// The type, or types, it may have.
        expected: &'static str,
        /// The type it has.
        found: &'static str,
    },
    /// A key holds a value that cannot be meant.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    KeyValue {
        /// The key with its prefix, as `general.name`.
        key: String,
        /// What it may hold, in words.
        expected: String,
        /// What it holds, in words.
        found: String,
    },
    /// The same tensor name twice.
    #[error("tensor `{tensor}` occurs twice")]
    DuplicateTensor {
        /// Name of the tensor.
        tensor: String,
    },
    /// A tensor type id that ggml does not define, or no longer.
    #[error("tensor `{tensor}` has the unknown ggml type {id}")]
    TensorType {
        /// Name of the tensor.
        tensor: String,
        /// The stored type id.
        id: u32,
    },
    /// A row that is not a whole number of the type's blocks.
    #[error(
        "tensor `{tensor}` of type {ty} has rows of {row} values, expected a multiple of {block}"
    )]
    RowLength {
        /// Name of the tensor.
        tensor: String,
        /// Name of its ggml type.
        ty: &'static str,
        /// Values per row, its first dimension.
        row: u64,
        /// Values per block of that type.
        block: u64,
    },
    /// A tensor whose size in elements or bytes does not fit 63 bits.
    #[error("tensor `{tensor}` with dimensions {dims:?} is too large to address")]
    TensorSize {
        /// Name of the tensor.
        tensor: String,
        /// Its dimensions, GGUF order.
        dims: Vec<u64>,
    },
    /// Tensor data that do not begin where the previous tensor's end: an overlap, a gap or
    /// a misalignment.
    #[error("tensor `{tensor}` begins at data offset {found}, expected {expected}")]
    TensorOffset {
        /// Name of the tensor.
        tensor: String,
        /// The end of the previous tensor, rounded up to the alignment.
        expected: u64,
        /// The offset in the tensor table, in bytes.
        found: u64,
    },
    /// The writer was given another number of bytes than the tensor's shape says.
    #[error("tensor `{tensor}` was given {found} bytes of data, expected {expected}")]
    DataLength {
        /// Name of the tensor.
        tensor: String,
        /// Bytes that its shape and type need.
        expected: u64,
        /// Bytes that there were.
        found: u64,
    },
}

impl GgufErrorKind {
    /// For `map_err` on system calls: "cannot `action`: …".
    pub(super) fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io { action, error }
    }

    /// An error if `found` exceeds `limit`.
    pub(crate) fn check_limit(
        what: std::fmt::Arguments<'_>,
        found: u64,
        limit: u64,
    ) -> Result<(), Self> {
        if found <= limit {
            return Ok(());
        }
        Err(Self::Limit {
            what: what.to_string(),
            found,
            limit,
        })
    }
}

fn called(first: &Option<PathBuf>) -> String {
    let first = first.as_ref();
    first.map_or(String::new(), |path| format!(", {}", path.display()))
}
