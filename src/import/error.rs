//! Everything that can stop an import.

use jola_edit::{BaseMismatch, FileError, SidecarError};

use super::pickle::PickleError;

/// An [`ImportErrorKind`] and the file it was found in.
pub type ImportError = FileError<ImportErrorKind>;

/// Why a file does not become an edit. Nothing has been written then.
#[derive(Debug, thiserror::Error)]
pub enum ImportErrorKind {
    /// The system refused.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        error: std::io::Error,
    },
    /// None of the file types that are read.
    #[error(
        "not a file that is read here (safetensors, a PyTorch file in zip form, npy, npz): it \
         begins with \"{found}\""
    )]
    FileType {
        /// The first bytes as text.
        found: String,
    },
    /// A PyTorch file of before version 1.6.
    #[error(
        "a PyTorch file in the form of before version 1.6: load it and save it again with a \
         newer torch"
    )]
    Legacy,
    /// A safetensors file that breaks its format.
    #[error("not a valid safetensors file: {0}")]
    Safetensors(safetensors::SafeTensorError),
    /// A zip archive that breaks its format.
    #[error("not a valid zip archive: {0}")]
    Zip(zip::result::ZipError),
    /// A zip archive without what its type needs.
    #[error("the archive has no `{entry}`")]
    MissingEntry {
        /// The file in the archive.
        entry: String,
    },
    /// A file in an archive that is larger than any that is read.
    #[error("`{entry}` unpacks to {found} bytes, the limit is {limit}")]
    EntryTooLarge {
        /// The file in the archive.
        entry: String,
        /// The size that the archive gives.
        found: u64,
        /// The largest accepted size.
        limit: u64,
    },
    /// A file in an archive whose size is not what the archive says.
    #[error("`{entry}` does not unpack to the {declared} bytes that it says")]
    EntrySize {
        /// The file in the archive.
        entry: String,
        /// The size that the archive gives.
        declared: u64,
    },
    /// A PyTorch file written on a big-endian machine.
    #[error("written on a big-endian machine: only little-endian files are read")]
    BigEndian,
    /// A pickle that is not only tensors, or damaged.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// A NumPy array that breaks its format.
    #[error("`{name}` is not a valid NumPy array")]
    Npy {
        /// Name of the array.
        name: String,
    },
    /// An element type that edits are never stored as.
    #[error("tensor `{tensor}` is of type {found}, expected a float of 16, 32 or 64 bits")]
    ElementType {
        /// Name of the tensor.
        tensor: String,
        /// Type of its elements.
        found: String,
    },
    /// An array beyond what an edit needs.
    #[error("tensor `{tensor}` has shape {shape:?}, more than {limit} values")]
    TooLarge {
        /// Name of the tensor.
        tensor: String,
        /// Length of each of its dimensions.
        shape: Vec<u64>,
        /// Most values that are read.
        limit: u64,
    },
    /// An array of more dimensions than NumPy or PyTorch make.
    #[error("tensor `{tensor}` has {found} dimensions, the limit is {limit}")]
    Dimensions {
        /// Name of the tensor.
        tensor: String,
        /// How many it has.
        found: usize,
        /// Most that are read.
        limit: usize,
    },
    /// A tensor that shows the same stored values several times.
    #[error(
        "tensor `{tensor}` of shape {shape:?} repeats {stored} stored values: save a copy of it"
    )]
    Repeated {
        /// Name of the tensor.
        tensor: String,
        /// Length of each of its dimensions.
        shape: Vec<u64>,
        /// Values of the storage that it shows.
        stored: u64,
    },
    /// A tensor whose data are not all there.
    #[error("tensor `{tensor}` needs {needed} bytes of `{storage}`, which has {found}")]
    Truncated {
        /// Name of the tensor.
        tensor: String,
        /// Where its data lie.
        storage: String,
        /// Bytes that its shape asks for.
        needed: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// The same tensor in two of the files.
    #[error("tensor `{tensor}` is also in {other}")]
    Duplicate {
        /// Name of the tensor.
        tensor: String,
        /// The other file.
        other: String,
    },
    /// No tensor of a known layout.
    #[error("no edit found: {layout}; the file has {names}")]
    NoEdit {
        /// What was looked for.
        layout: &'static str,
        /// What is there, shortened.
        names: String,
    },
    /// Tensors beside the known ones that would change what the edit does.
    #[error("unknown tensors beside the edit: {names}")]
    Unknown {
        /// The names, shortened.
        names: String,
    },
    /// A vector without its gate or a gate without its vectors.
    #[error("layer {layer} has `{found}` but no `{missing}`")]
    Partner {
        /// The layer, counted from 0.
        layer: u32,
        /// What is there.
        found: &'static str,
        /// What is missing.
        missing: &'static str,
    },
    /// A tensor whose shape is not the model's.
    #[error("tensor `{tensor}` has shape {found:?}, expected {expected}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// What the model asks for.
        expected: String,
        /// What is stored.
        found: Vec<u64>,
    },
    /// A layer or head that the model does not have.
    #[error("tensor `{tensor}` is for {what} {found}, the model has {count}")]
    OutOfRange {
        /// Name of the tensor.
        tensor: String,
        /// `layer` or `head`.
        what: &'static str,
        /// Its number, counted from 0.
        found: u64,
        /// How many there are.
        count: u64,
    },
    /// A value that is infinite or not a number.
    #[error("tensor `{tensor}`: value {index} is {value}")]
    NotFinite {
        /// Name of the tensor.
        tensor: String,
        /// Position in the array.
        index: usize,
        /// What is stored there.
        value: f32,
    },
    /// A configuration that is not pyvene's.
    #[error("not a configuration that pyvene saved: {0}")]
    Config(serde_json::Error),
    /// Gates in a file that is read as LoFiT's.
    #[error("layer {layer} has gates, which LoFiT does not")]
    Gates {
        /// The layer, counted from 0.
        layer: u32,
    },
    /// Interventions on single heads, and heads for fewer or more of them.
    #[error(
        "{needed} interventions are on single heads, which pyvene is told when it runs, and \
         those of {named} are named"
    )]
    HeadsUnnamed {
        /// Interventions on single heads.
        needed: usize,
        /// Interventions whose heads are named.
        named: usize,
    },
    /// A named head that the layer does not have.
    #[error("layer {layer} has no head {head}, it has {count}")]
    NoSuchHead {
        /// The layer, counted from 0.
        layer: u32,
        /// The head, counted from 0.
        head: u32,
        /// Heads of the layer.
        count: u32,
    },
    /// Heads named for a file that has them itself.
    #[error("heads are named, and the file has its own")]
    HeadsNamed,
    /// An edit that cannot be expressed exactly.
    #[error("{0}")]
    Inexact(String),
    /// The result does not fit the model.
    #[error(transparent)]
    Base(#[from] BaseMismatch),
    /// The result breaks a rule of the format.
    #[error(transparent)]
    Sidecar(#[from] SidecarError),
}

impl ImportErrorKind {
    /// For `map_err` on system calls.
    pub(super) fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io { action, error }
    }
}

/// The first few of many names.
pub(super) fn some_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<&str> = names.collect();
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len() {
        0 => "no tensors".to_owned(),
        n if n > SHOWN => format!("{} and {} more", shown.join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}
