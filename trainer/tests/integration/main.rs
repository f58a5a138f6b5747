//! The reference model, its training and its base models, on small seeded random models.

mod architectures;
mod decoder;
mod gpu;
mod huggingface;
mod training;
