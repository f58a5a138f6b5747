//! The rows: from a data file to sequences of tokens, which of them are for training, in which
//! order they come, what the layers below all edits make of them, and what the unedited model says
//! at their prompts.

mod cached_rows;
mod encode;
mod prompt_reference;
mod sampler;
mod split;

pub use cached_rows::CachedRows;
pub(crate) use encode::{encode_file, Encoded, Encoding};
pub use prompt_reference::PromptReference;
pub use sampler::Sampler;
pub(crate) use split::split;
