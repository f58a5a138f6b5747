//! npy, npz and PyTorch's zip files, as `llama-jola import` opens them.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llama_jola::import::Source;

/// Tensors that are read of one file: each may have its full size.
const READ: usize = 4;

fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = Source::parse(Path::new("file"), bytes) else { return };
    for name in source.names().iter().take(READ) {
        if let Ok(array) = source.read(name) {
            assert_eq!(array.shape.iter().product::<u64>(), array.values.len() as u64);
        }
    }
});
