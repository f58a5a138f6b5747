//! The directory of a safetensors file. The length before it is put in here, since hardly any
//! random one is right.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llama_jola::import::Source;

/// Tensors that are read of one file.
const READ: usize = 4;

fuzz_target!(|input: (u8, &[u8])| {
    let (data, header) = input;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(vec![0; data.into()]);
    let Ok(source) = Source::parse(Path::new("file"), bytes) else { return };
    for name in source.names().iter().take(READ) {
        if let Ok(array) = source.read(name) {
            assert_eq!(array.shape.iter().product::<u64>(), array.values.len() as u64);
        }
    }
});
