//! Every way in which a sidecar can be wrong, beyond not being a GGUF file.

use crate::gguf::GgufErrorKind;
use crate::FileError;

/// A [`SidecarErrorKind`] and the file it was found in.
pub type SidecarError = FileError<SidecarErrorKind>;

/// What is wrong with a sidecar.
#[derive(Debug, thiserror::Error)]
pub enum SidecarErrorKind {
    /// Not a valid GGUF file, or a key is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufErrorKind),
    /// `general.type` says that the file is something else, for example a model.
    #[error("`general.type` is `{found}`, expected `adapter`")]
    GeneralType {
        /// What the file says instead.
        found: String,
    },
    /// `adapter.type` says that the adapter is of another kind, for example `lora`.
    #[error("`adapter.type` is `{found}`, expected `jola`")]
    AdapterType {
        /// What the file says instead.
        found: String,
    },
    /// The file needs a newer reader.
    #[error(
        "`jola.format_version` is {found}, this version of the program reads up to {supported}"
    )]
    NewerFormat {
        /// The version that the file was written in.
        found: u32,
        /// The newest version that is read.
        supported: u32,
    },
    /// A number that must be at least 1.
    #[error("`{key}` is 0, expected at least 1")]
    Zero {
        /// The key with its prefix, as `jola.block_count`.
        key: &'static str,
    },
    /// More layers than any model has.
    #[error("`jola.block_count` is {found}, the limit is {limit}")]
    TooManyLayers {
        /// The number of layers that the file gives.
        found: u32,
        /// The largest accepted number.
        limit: u32,
    },
    /// Head outputs that are together wider than any model's.
    #[error("`jola.head_count` {head_count} times `jola.head_dim` {head_dim} exceeds {limit}")]
    RowTooLong {
        /// The largest stored head count.
        head_count: u32,
        /// The stored head width.
        head_dim: u32,
        /// The largest accepted product.
        limit: u64,
    },
    /// Head outputs of all layers that are together more than any model's.
    #[error("{heads} heads in all layers times `jola.head_dim` {head_dim} exceeds {limit}")]
    ModelTooLarge {
        /// Heads of all layers.
        heads: u64,
        /// The stored head width.
        head_dim: u32,
        /// The largest accepted product.
        limit: u64,
    },
    /// The array of head counts does not have one element per layer.
    #[error("`jola.head_count` has {found} elements, expected `jola.block_count` = {expected}")]
    HeadCountLength {
        /// Layers of the base model.
        expected: u32,
        /// Elements of the array.
        found: u64,
    },
    /// `jola.base.sha256` is not a digest.
    #[error("`jola.base.sha256` is `{found}`, expected 64 lowercase hexadecimal digits")]
    Sha256 {
        /// What the file says instead.
        found: String,
    },
    /// A tensor that the format does not define.
    #[error("unknown tensor `{tensor}`")]
    UnknownTensor {
        /// Name of the tensor.
        tensor: String,
    },
    /// A tensor of another type than its role needs.
    #[error("tensor `{tensor}` is of type {found}, expected {expected}")]
    TensorType {
        /// Name of the tensor.
        tensor: String,
        /// ggml's name of the type it must have.
        expected: &'static str,
        /// ggml's name of the type it has.
        found: &'static str,
    },
    /// Head numbers whose vectors are missing.
    #[error("tensor `{tensor}` has no vectors: `{missing}` is missing")]
    HeadsWithoutVectors {
        /// The tensor with head numbers.
        tensor: String,
        /// The tensor that should hold the vectors.
        missing: String,
    },
    /// Vectors whose head numbers are missing.
    #[error("tensor `{tensor}` has no head numbers: `{missing}` is missing")]
    VectorsWithoutHeads {
        /// The tensor with vectors.
        tensor: String,
        /// The tensor that should hold the head numbers.
        missing: String,
    },
    /// A tensor of the wrong shape; dimensions in GGUF order, the fastest first.
    #[error("tensor `{tensor}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// The shape it must have.
        expected: Vec<u64>,
        /// The shape it has; for values in memory their number.
        found: Vec<u64>,
    },
    /// A tensor that edits no head; it must be left out.
    #[error("tensor `{tensor}` names no head, expected at least one")]
    NoHeads {
        /// The tensor with head numbers.
        tensor: String,
    },
    /// A layer that the base model does not have.
    #[error("layer {layer} is edited, but `jola.block_count` is {block_count}")]
    LayerOutOfRange {
        /// The layer, counted from 0.
        layer: u64,
        /// Layers of the base model.
        block_count: u32,
    },
    /// A layer in memory with neither scale nor offset; it must be left out.
    #[error("layer {layer} has neither scale nor offset")]
    EmptyLayer {
        /// The layer, counted from 0.
        layer: u32,
    },
    /// A head that the layer does not have.
    #[error("tensor `{tensor}` names head {head}, but the layer has {head_count} heads")]
    HeadOutOfRange {
        /// The tensor with head numbers.
        tensor: String,
        /// The head, counted from 0.
        head: i64,
        /// Heads of the layer.
        head_count: u32,
    },
    /// The same head twice.
    #[error("tensor `{tensor}` names head {head} twice")]
    DuplicateHead {
        /// The tensor with head numbers.
        tensor: String,
        /// The head, counted from 0.
        head: u32,
    },
    /// Heads that are not in ascending order.
    #[error(
        "tensor `{tensor}` names head {found} after head {previous}, expected ascending order"
    )]
    HeadOrder {
        /// The tensor with head numbers.
        tensor: String,
        /// The head that stands first, counted from 0.
        previous: u32,
        /// The smaller head that follows it.
        found: u32,
    },
    /// A value that is not a number, or infinite.
    #[error("tensor `{tensor}` holds {found} at index {index}, expected a finite number")]
    NotFinite {
        /// The tensor with vectors.
        tensor: String,
        /// Position in the tensor, counted in values from 0.
        index: usize,
        /// The infinity or NaN.
        found: f32,
    },
    /// Bytes after the last tensor.
    #[error("{found} bytes follow the last tensor, expected none")]
    TrailingBytes {
        /// Bytes of the file behind the last tensor and its padding.
        found: u64,
    },
}
