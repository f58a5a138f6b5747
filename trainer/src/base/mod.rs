//! The frozen base model as it is stored: a GGUF file or a directory in Hugging Face's layout,
//! both read as the GGUF that llama.cpp serves.

mod digest;
mod gguf;
mod hf;
mod open;
mod source;
mod tensor;

pub use digest::tensors_sha256;
pub use hf::HfVocabulary;
pub use open::open;
pub use source::Base;
pub use tensor::{BaseTensor, RowOrder, StoredRows};
