//! The format's bytes, so that they cannot change unnoticed. The listing was not made by this
//! crate's writer, and is the worked example of `docs/reference/sidecar-format.md`.

use super::*;

/// Position, bytes and meaning of everything in the file of [`golden`].
const LISTING: &str = include_str!("golden.txt");
const SPECIFICATION: &str = include_str!("../../../../docs/reference/sidecar-format.md");

/// One layer of two heads of width 2: head 1 scaled, both heads offset.
fn golden() -> Sidecar {
    let mut train = Metadata::new();
    train.insert("seed", 42u64).unwrap();
    let edit = LayerEdit {
        mul: Some(HeadVectors {
            heads: vec![1],
            values: vec![0.5, -0.25],
        }),
        add: Some(HeadVectors {
            heads: vec![0, 1],
            values: vec![3.0, 4.0, 0.0, -2.0],
        }),
    };
    Sidecar {
        architecture: "llama".into(),
        name: "Example".into(),
        base_model_name: "Tiny".into(),
        block_count: 1,
        head_count: HeadCount::Uniform(2),
        head_dim: 2,
        method: "jola".into(),
        base_sha256: None,
        train,
        layers: BTreeMap::from([(0, edit)]),
        warnings: vec![],
    }
}

/// The bytes of the listing: columns 5 to 52 of each line.
fn listed_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in LISTING.lines() {
        let position = usize::from_str_radix(&line[..3], 16).unwrap();
        assert_eq!(position, bytes.len(), "{line}");
        let column = &line[5..line.len().min(52)];
        let numbers = column.split_whitespace();
        bytes.extend(numbers.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

#[test]
fn the_golden_file_is_written_and_read() {
    let bytes = listed_bytes();
    assert_eq!(to_bytes(&golden()), bytes);
    assert_eq!(from_bytes(bytes).unwrap(), golden());
}

#[test]
fn the_specification_shows_the_golden_file() {
    assert!(SPECIFICATION.contains(LISTING));
}
