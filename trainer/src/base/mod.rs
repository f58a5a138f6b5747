//! The base model as it is stored.

pub mod hf;
pub mod tensor;
