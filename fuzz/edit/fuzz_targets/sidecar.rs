//! The sidecar: read, checked against a base, composed, written and read again.
#![no_main]

use jola_edit::{BaseShape, EditSet, Gguf, Sidecar};
use libfuzzer_sys::fuzz_target;

/// Rows beyond this are not composed here: they are allowed, and slow.
const MAX_COMPOSED: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    let Ok(sidecar) = Sidecar::from_gguf(&gguf) else { return };
    let small = BaseShape {
        architecture: "llama".to_owned(),
        block_count: 3,
        head_count: vec![4, 0, 4],
        head_dim: 2,
    };
    let _ = sidecar.check_base(&small).map_err(|mismatch| mismatch.to_string());
    let shape = sidecar.base_shape();
    assert_eq!(sidecar.check_base(&shape), Ok(()));
    sidecar.validate().expect("what is read is valid");
    let stats = sidecar.stats();
    assert!(stats.edited_heads as u64 <= stats.heads);
    let heads: u64 = shape.head_count.iter().map(|count| u64::from(*count)).sum();
    if heads * u64::from(shape.head_dim) > MAX_COMPOSED {
        return;
    }
    // Only an overflow can stop a composition of what is valid.
    if let Ok(edits) = EditSet::compose(&[(&sidecar, 1.0), (&sidecar, -0.5)]) {
        for (layer, edit) in &edits.layers {
            let width = shape.head_count[*layer as usize] * shape.head_dim;
            assert_eq!(edit.width(), width as usize);
        }
    }
});
