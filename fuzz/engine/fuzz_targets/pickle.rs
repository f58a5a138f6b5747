//! The stack machine that reads PyTorch's pickles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llama_jola::import::pickle;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = pickle::read(bytes) {
        for (name, tensor) in value.tensors().unwrap_or_default() {
            std::hint::black_box((name.len(), tensor.shape.len()));
        }
    }
});
