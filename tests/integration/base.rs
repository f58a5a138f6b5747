//! The base model in 32-bit floats.

use std::path::Path;

/// The F32 copy of the base model, made once and kept in the cache.
pub fn f32_base() -> &'static Path {
    testkit::f32_base(llama_jola::ggml::dequantize)
}
