//! Base models in Hugging Face's layout: against what llama.cpp's converter makes of them,
//! against transformers, and against llama.cpp.

mod convert;
mod ends;
mod fixture;
mod logits;
mod refusal;
mod templates;
mod tokens;
mod training;
