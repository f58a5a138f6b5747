//! One test for each way in which a file, or what should become one, can be wrong.

use super::*;

/// Asserts that bytes are refused with a kind, and that the message holds a text.
macro_rules! assert_refused {
    ($bytes:expr, $kind:pat, $text:expr) => {{
        let error = Gguf::parse($bytes).unwrap_err();
        assert!(matches!(*error.kind, $kind), "{error:?}");
        let message = error.to_string();
        assert!(message.starts_with("<memory>: "), "{message}");
        assert!(message.contains($text), "{message}");
    }};
}

fn patched(bytes: Vec<u8>, at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = bytes;
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

#[test]
fn io() {
    let error = Gguf::open("no/such/file.gguf").unwrap_err();
    assert!(matches!(*error.kind, GgufErrorKind::Io { .. }));
    let message = error.to_string();
    assert!(
        message.starts_with("no/such/file.gguf: cannot open it: "),
        "{message}"
    );
}

#[test]
fn truncated_anywhere() {
    let whole = two_tensors().bytes();
    for len in 0..whole.len() {
        let error = Gguf::parse(&whole[..len]).unwrap_err();
        assert!(
            matches!(*error.kind, GgufErrorKind::Truncated { .. }),
            "{len}: {error}"
        );
    }
    let error = Gguf::parse(&whole[..whole.len() - 1]).unwrap_err();
    let offset = whole.len() - 16;
    let expected = format!(
        "<memory>: truncated: data of tensor `second` needs 16 bytes at offset {offset}, \
         the file has 15"
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn truncated_by_huge_lengths() {
    let array = |element: u32, len: u64| [&element.to_le_bytes()[..], &len.to_le_bytes()].concat();
    for element in [0, 7, 8, 12] {
        let raw = Raw::default().entry(b"k", 9, &array(element, MAX_ARRAY_LEN));
        assert_refused!(raw.bytes(), GgufErrorKind::Truncated { .. }, "array `k`");
    }
    let raw = Raw::default().entry(b"k", 8, &MAX_STRING_LEN.to_le_bytes());
    assert_refused!(raw.bytes(), GgufErrorKind::Truncated { .. }, "value of `k`");
}

#[test]
fn magic() {
    let bytes = patched(two_tensors().bytes(), 0, b"GG\xffF");
    assert_refused!(bytes, GgufErrorKind::Magic { .. }, r"GG\\xffF");
}

#[test]
fn big_endian() {
    let swapped = two_tensors().bytes_of_version(3u32.swap_bytes());
    assert_refused!(swapped, GgufErrorKind::BigEndian, "big-endian");
    let reversed = patched(two_tensors().bytes(), 0, b"FUGG");
    assert_refused!(reversed, GgufErrorKind::BigEndian, "big-endian");
}

#[test]
fn version() {
    for version in [0, 1, 4] {
        let bytes = two_tensors().bytes_of_version(version);
        let text = format!("GGUF version {version}, expected 2 or 3");
        assert_refused!(bytes, GgufErrorKind::Version { .. }, &text);
    }
}

#[test]
fn limits() {
    let counts = Raw::default().bytes();
    let tensors = patched(counts.clone(), 8, &(MAX_TENSORS + 1).to_le_bytes());
    assert_refused!(tensors, GgufErrorKind::Limit { .. }, "number of tensors");
    let entries = patched(counts, 16, &(MAX_METADATA + 1).to_le_bytes());
    assert_refused!(
        entries,
        GgufErrorKind::Limit { .. },
        "number of metadata entries"
    );
    let key = Raw::default().entry(&[b'k'; 65536], 0, &[0]);
    assert_refused!(
        key.bytes(),
        GgufErrorKind::Limit { .. },
        "length of metadata key 0 is 65536"
    );
    let string = Raw::default().entry(b"k", 8, &(MAX_STRING_LEN + 1).to_le_bytes());
    assert_refused!(
        string.bytes(),
        GgufErrorKind::Limit { .. },
        "length of value of `k`"
    );
    let array = [&[0; 4][..], &u64::MAX.to_le_bytes()].concat();
    let array = Raw::default().entry(b"k", 9, &array);
    assert_refused!(array.bytes(), GgufErrorKind::Limit { .. }, "`k`");
    let name = Raw::default().tensor(&[b't'; 64], &[1], F32, 0).data(4);
    assert_refused!(
        name.bytes(),
        GgufErrorKind::Limit { .. },
        "name of tensor 0"
    );
    let dims = Raw::default().tensor(b"t", &[1; 5], F32, 0).data(4);
    assert_refused!(
        dims.bytes(),
        GgufErrorKind::Limit { .. },
        "dimensions of tensor `t` is 5"
    );
}

#[test]
fn limits_of_the_writer() {
    let mut metadata = Metadata::new();
    let long = metadata.insert("k".repeat(65536), 1u8);
    assert!(matches!(long, Err(GgufErrorKind::Limit { .. })));
    for index in 0..=MAX_METADATA {
        metadata.insert(format!("{index}"), 1u8).unwrap();
    }
    let many = GgufWriter::new(metadata);
    assert!(matches!(many, Err(GgufErrorKind::Limit { .. })));
    let mut writer = GgufWriter::new(Metadata::new()).unwrap();
    let name = writer.add_tensor("t".repeat(64), F32, &[0], vec![]);
    assert!(matches!(name, Err(GgufErrorKind::Limit { .. })));
}

#[test]
fn utf8() {
    let key = Raw::default().entry(b"\xff", 0, &[0]);
    assert_refused!(key.bytes(), GgufErrorKind::Utf8 { .. }, "metadata key 0");
    let value = Raw::default().entry(b"k", 8, &sized(b"\xff"));
    assert_refused!(value.bytes(), GgufErrorKind::Utf8 { .. }, "value of `k`");
    let name = Raw::default().tensor(b"\xff", &[1], F32, 0).data(4);
    assert_refused!(name.bytes(), GgufErrorKind::Utf8 { .. }, "name of tensor 0");
}

#[test]
fn empty_key() {
    let raw = Raw::default().entry(b"", 0, &[0]);
    assert_refused!(raw.bytes(), GgufErrorKind::EmptyKey, "empty");
}

#[test]
fn duplicate_key() {
    let raw = Raw::default().entry(b"k", 0, &[0]).entry(b"k", 0, &[0]);
    assert_refused!(raw.bytes(), GgufErrorKind::DuplicateKey { .. }, "`k`");
}

#[test]
fn value_type() {
    let value = Raw::default().entry(b"k", 13, &[0; 16]);
    assert_refused!(
        value.bytes(),
        GgufErrorKind::ValueType { id: 13, .. },
        "`k`"
    );
    let element = Raw::default().entry(b"k", 9, &[99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_refused!(
        element.bytes(),
        GgufErrorKind::ValueType { id: 99, .. },
        "`k`"
    );
}

#[test]
fn nested_array() {
    let raw = Raw::default().entry(b"k", 9, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_refused!(raw.bytes(), GgufErrorKind::NestedArray { .. }, "`k`");
}

#[test]
fn bool() {
    let scalar = Raw::default().entry(b"k", 7, &[2]);
    assert_refused!(scalar.bytes(), GgufErrorKind::Bool { found: 2, .. }, "`k`");
    let array = [7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3];
    let array = Raw::default().entry(b"k", 9, &array);
    assert_refused!(array.bytes(), GgufErrorKind::Bool { found: 3, .. }, "`k`");
}

#[test]
fn alignment() {
    for found in [0u32, 48] {
        let raw = Raw::default().entry(b"general.alignment", 4, &found.to_le_bytes());
        let text = format!("is {found}, expected a power of two");
        assert_refused!(raw.bytes(), GgufErrorKind::Alignment { .. }, &text);
        let mut metadata = Metadata::new();
        metadata.insert(ALIGNMENT_KEY, found).unwrap();
        let error = GgufWriter::new(metadata).unwrap_err();
        assert!(matches!(error, GgufErrorKind::Alignment { .. }));
    }
}

#[test]
fn key_type() {
    let raw = Raw::default().entry(b"general.alignment", 10, &[0; 8]);
    assert_refused!(
        raw.bytes(),
        GgufErrorKind::KeyType { .. },
        "`general.alignment` is of type u64, expected u32"
    );
}

#[test]
fn missing_key() {
    let error = Metadata::new().str("general.name").unwrap_err();
    assert!(matches!(error, GgufErrorKind::MissingKey { .. }));
    assert_eq!(error.to_string(), "metadata key `general.name` is missing");
}

#[test]
fn duplicate_tensor() {
    let raw = Raw::default()
        .tensor(b"t", &[1], F32, 0)
        .tensor(b"t", &[1], F32, 32)
        .data(64);
    assert_refused!(raw.bytes(), GgufErrorKind::DuplicateTensor { .. }, "`t`");
    let mut writer = GgufWriter::new(Metadata::new()).unwrap();
    writer.add_tensor("t", F32, &[0], vec![]).unwrap();
    let error = writer.add_tensor("t", F32, &[0], vec![]).unwrap_err();
    assert!(matches!(error, GgufErrorKind::DuplicateTensor { .. }));
}

#[test]
fn tensor_type() {
    for id in [4, 5, 31, 33, 36, 38, 43, u32::MAX] {
        let raw = Raw::default().tensor(b"t", &[256], id, 0).data(256);
        let text = format!("tensor `t` has the unknown ggml type {id}");
        assert_refused!(raw.bytes(), GgufErrorKind::TensorType { .. }, &text);
    }
}

#[test]
fn row_length() {
    // Twice 16 values would fill one block, but rows are made of whole blocks.
    let raw = Raw::default().tensor(b"t", &[16, 2], 2, 0).data(18);
    assert_refused!(
        raw.bytes(),
        GgufErrorKind::RowLength { .. },
        "type q4_0 has rows of 16 values, expected a multiple of 32"
    );
}

#[test]
fn tensor_size() {
    let sizes: [&[u64]; 4] = [
        &[1 << 32, 1 << 32],
        &[0, 1 << 32, 1 << 32],
        &[1 << 63],
        &[1 << 62],
    ];
    for dims in sizes {
        let raw = Raw::default().tensor(b"t", dims, F32, 0);
        assert_refused!(raw.bytes(), GgufErrorKind::TensorSize { .. }, "`t`");
    }
}

#[test]
fn tensor_sizes_that_overflow_together() {
    let half = (i64::MAX as u64 / 4).next_multiple_of(8) - 8;
    let mut raw = Raw::default();
    for index in 0..3u64 {
        let offset = index * (4 * half);
        raw = raw.tensor(&[b'a' + index as u8], &[half], F32, offset);
    }
    let error = Gguf::parse(raw.bytes()).unwrap_err();
    assert!(matches!(*error.kind, GgufErrorKind::TensorSize { .. }));
}

#[test]
fn tensor_offset() {
    // An overlap, a misalignment and a gap.
    for offset in [0, 12, 64] {
        let raw = Raw::default()
            .tensor(b"a", &[3], F32, 0)
            .tensor(b"b", &[1], F32, offset)
            .data(96);
        let text = format!("`b` begins at data offset {offset}, expected 32");
        assert_refused!(raw.bytes(), GgufErrorKind::TensorOffset { .. }, &text);
    }
}

#[test]
fn data_length() {
    let mut writer = GgufWriter::new(Metadata::new()).unwrap();
    let error = writer.add_tensor("t", F32, &[2], vec![0; 7]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor `t` was given 7 bytes of data, expected 8"
    );
    for len in [7, 9] {
        let mut writer = GgufWriter::new(Metadata::new()).unwrap();
        let stream = TensorData::stream(move |out| out.write_all(&vec![0; len]));
        writer.add_tensor("t", F32, &[2], stream).unwrap();
        let error = writer.write_to(Vec::new()).unwrap_err();
        assert!(matches!(
            error,
            GgufErrorKind::DataLength { expected: 8, .. }
        ));
    }
}
