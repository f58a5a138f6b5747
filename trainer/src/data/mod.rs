//! The rows: from a data file to sequences of tokens, which of them are for training, in which
//! order they come, and what the layers below all edits make of them.

mod cached_rows;
mod encode;
mod sampler;
mod split;

pub use cached_rows::CachedRows;
pub(crate) use encode::{encode_file, Encoded};
pub use sampler::Sampler;
pub(crate) use split::split;
