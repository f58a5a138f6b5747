//! A strict, bounded GGUF reader (versions 2 and 3, little-endian) and a version 3 writer.
//!
//! Sidecars come from strangers and base models are hundreds of megabytes, so the reader
//! memory-maps, checks every length, offset and duplicate before anything is handed out,
//! and never panics; the writer streams, and replaces its target only when it is complete.
//! A file that [`Gguf::open`] accepts follows the rules llama.cpp itself enforces.
//!
//! # Why not the `gguf-rs` crate
//!
//! `gguf-rs` 0.1.8 is used in this crate's tests as an independent reader and writer. It is
//! not used outside them because, as its source shows:
//!
//! - its reader panics (`unreachable!`) on a tensor of type id 40, which is NVFP4 today, and
//!   refuses ids 41 and 42 (Q1_0, Q2_0);
//! - its table of byte lengths is wrong for Q8_1 (9), IQ4_NL (20), I8 to F64 (24 to 28),
//!   BF16 (30) and MXFP4 (39), mostly because it assumes blocks of 256 values for every id
//!   from 10 on. Its writer shares the table: an I32 tensor of 3 values gets 0 bytes, so it
//!   cannot write the head numbers of a sidecar;
//! - metadata become JSON values in a sorted map: the stored type and order are lost, a NaN
//!   becomes null, a repeated key silently replaces the first, and text that is not UTF-8 is
//!   replaced;
//! - tensor offsets are checked neither against the file nor against each other;
//! - it brings clap, comfy-table and simple_logger into every consumer.

mod error;
mod file;
mod metadata;
mod reader;
mod role;
mod splits;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod value;
mod writer;

pub use error::{GgufError, GgufErrorKind};
pub use file::{Gguf, Tensor, TensorInfo};
pub use metadata::Metadata;
pub use role::Role;
pub use splits::{Splits, SPLIT_KEYS};
pub use types::{GgmlType, BF16, F16, F32, I32};
pub use value::{Array, Value};
pub use writer::{GgufWriter, TensorData};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version that [`GgufWriter`] writes, and the newest that [`Gguf`] reads.
pub const VERSION: u32 = 3;
/// The oldest version that [`Gguf`] reads; version 1 has another layout.
pub const OLDEST_VERSION: u32 = 2;
/// Alignment of tensor data in bytes when the key [`ALIGNMENT_KEY`] is absent.
pub const DEFAULT_ALIGNMENT: u32 = 32;
/// The key that overrides [`DEFAULT_ALIGNMENT`].
pub const ALIGNMENT_KEY: &str = "general.alignment";
/// Most metadata entries of one file.
pub const MAX_METADATA: u64 = 1 << 16;
/// Most tensors of one file.
pub const MAX_TENSORS: u64 = 1 << 16;
/// Longest metadata key in bytes (the GGUF specification's limit).
pub const MAX_KEY_LEN: u64 = (1 << 16) - 1;
/// Longest string value in bytes (llama.cpp's limit).
pub const MAX_STRING_LEN: u64 = 1 << 30;
/// Most elements of one array value (llama.cpp's limit).
pub const MAX_ARRAY_LEN: u64 = 1 << 30;
/// Longest tensor name in bytes (llama.cpp's limit: 64 with the closing zero).
pub const MAX_TENSOR_NAME_LEN: u64 = 63;
/// Most dimensions of one tensor (ggml's limit).
pub const MAX_DIMS: u64 = 4;

/// `position` rounded up to a multiple of `alignment` (not 0), or `None` past `u64::MAX`.
fn align_up(position: u64, alignment: u32) -> Option<u64> {
    position.checked_next_multiple_of(u64::from(alignment))
}
