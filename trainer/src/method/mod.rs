//! What is trained.

pub mod edits;
pub mod export;
pub mod gates;
pub mod lora;
pub mod lora_file;
pub mod methods;
pub mod parameters;
