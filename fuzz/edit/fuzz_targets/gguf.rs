//! The GGUF reader: sidecars of strangers, and base models before llama.cpp sees them.
#![no_main]

use jola_edit::{BaseShape, Gguf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    for tensor in gguf.iter() {
        assert_eq!(tensor.bytes.len() as u64, tensor.info.len);
        let values = tensor.to_f32s().map(|values| values.len());
        let numbers = tensor.to_i32s().map(|numbers| numbers.len());
        if let Some(len) = values.or(numbers) {
            assert_eq!(len as u64, tensor.info.elements());
        }
    }
    for (key, value) in gguf.metadata().iter() {
        assert_eq!(gguf.metadata().get(key).map(|v| v.type_name()), Some(value.type_name()));
    }
    if let Ok(shape) = BaseShape::from_gguf(&gguf) {
        assert_eq!(shape.head_count.len(), shape.block_count as usize);
    }
});
