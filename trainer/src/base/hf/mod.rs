//! Base models in Hugging Face's layout: a directory with config.json, safetensors and
//! tokenizer.json, read as the GGUF that llama.cpp's converter would make of it.
//!
//! `config` and `rope` translate config.json into metadata, `names` the tensors; `shards` maps
//! the files, `tokenizer` reads tokenizer.json and the chat template; `directory` puts them
//! together.

mod config;
mod directory;
mod json;
mod metadata;
mod names;
mod rope;
mod shards;
mod tokenizer;

pub use directory::Directory;
pub use tokenizer::HfVocabulary;
