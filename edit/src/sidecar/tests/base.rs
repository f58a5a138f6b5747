//! Tests of whether an edit fits a model.

use super::*;
use crate::gguf::{GgufError, GgufErrorKind};

fn base() -> BaseShape {
    BaseShape {
        architecture: "llama".into(),
        block_count: 3,
        head_count: vec![2, 0, 4],
        head_dim: 2,
    }
}

#[test]
fn the_model_it_was_made_for_fits() {
    assert_eq!(example().check_base(&base()), Ok(()));
    assert_eq!(example().base_shape(), base());
    assert_eq!(base().to_head_count(), example().head_count);
    let uniform = BaseShape {
        head_count: vec![9; 3],
        ..base()
    };
    assert_eq!(uniform.to_head_count(), HeadCount::Uniform(9));
}

#[test]
fn architecture() {
    let other = BaseShape {
        architecture: "gemma3".into(),
        ..base()
    };
    let error = example().check_base(&other).unwrap_err();
    assert!(matches!(error, BaseMismatch::Architecture { .. }));
    assert_eq!(
        error.to_string(),
        "the edit is for architecture `llama`, the model is `gemma3`"
    );
}

#[test]
fn block_count() {
    let other = BaseShape {
        block_count: 4,
        head_count: vec![2, 0, 4, 4],
        ..base()
    };
    let error = example().check_base(&other).unwrap_err();
    let expected = BaseMismatch::BlockCount {
        expected: 3,
        found: 4,
    };
    assert_eq!(error, expected);
}

#[test]
fn no_attention() {
    let other = BaseShape {
        head_count: vec![2, 0, 0],
        ..base()
    };
    let error = example().check_base(&other).unwrap_err();
    assert_eq!(error, BaseMismatch::NoAttention { layer: 2 });
}

#[test]
fn head_count() {
    let other = BaseShape {
        head_count: vec![2, 1, 4],
        ..base()
    };
    let error = example().check_base(&other).unwrap_err();
    let expected = BaseMismatch::HeadCount {
        layer: 1,
        expected: 0,
        found: 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn head_dim() {
    let other = BaseShape {
        head_dim: 64,
        ..base()
    };
    let error = example().check_base(&other).unwrap_err();
    let expected = BaseMismatch::HeadDim {
        expected: 2,
        found: 64,
    };
    assert_eq!(error, expected);
}

fn from_entries(entries: &[(&str, Value)]) -> Result<BaseShape, GgufError> {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "gemma3").unwrap();
    for (key, value) in entries {
        let key = format!("gemma3.{key}");
        metadata.insert(key, value.clone()).unwrap();
    }
    let mut bytes = Vec::new();
    let writer = GgufWriter::new(metadata).unwrap();
    writer.write_to(&mut bytes).unwrap();
    BaseShape::from_gguf(&Gguf::parse(bytes).unwrap())
}

#[test]
fn the_shape_of_a_model_file() {
    let layers = ("block_count", Value::U32(2));
    let heads = ("attention.head_count", Value::U32(4));
    let width = ("attention.value_length", Value::U32(256));
    let embedding = ("embedding_length", Value::U32(640));
    let shape = |entries: &[(&str, Value)]| {
        let shape = from_entries(entries).unwrap();
        (shape.head_count, shape.head_dim)
    };
    let entries = [
        layers.clone(),
        heads.clone(),
        width.clone(),
        embedding.clone(),
    ];
    assert_eq!(shape(&entries), (vec![4, 4], 256));
    let entries = [layers.clone(), heads.clone(), embedding.clone()];
    assert_eq!(shape(&entries), (vec![4, 4], 160));
    for counts in [Array::I32(vec![0, 5]), Array::U32(vec![0, 5])] {
        let per_layer = ("attention.head_count", counts.into());
        let entries = [layers.clone(), per_layer, embedding.clone()];
        assert_eq!(shape(&entries), (vec![0, 5], 128));
    }
    let hybrid = ("attention.head_count_kv", Array::U32(vec![0, 2]).into());
    let entries = [layers.clone(), heads.clone(), hybrid, embedding];
    assert_eq!(shape(&entries), (vec![0, 4], 160));
    let latent = ("attention.value_length_mla", Value::U32(128));
    let entries = [layers.clone(), heads.clone(), width.clone(), latent];
    assert_eq!(shape(&entries), (vec![4, 4], 128));
    let window = ("attention.value_length_swa", Value::U32(256));
    assert_eq!(shape(&[layers, heads, width, window]), (vec![4, 4], 256));
}

#[test]
fn a_model_file_that_has_no_single_shape() {
    let layers = ("block_count", Value::U32(2));
    let heads = ("attention.head_count", Value::U32(4));
    let width = ("attention.value_length", Value::U32(256));
    let error = from_entries(std::slice::from_ref(&heads)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "<memory>: metadata key `gemma3.block_count` is missing"
    );
    let many = ("block_count", Value::U32(MAX_BLOCK_COUNT + 1));
    let error = from_entries(&[many]).unwrap_err();
    assert!(matches!(*error.kind, GgufErrorKind::Limit { .. }));
    for (width, message) in [
        (1 << 20, None),
        ((1 << 20) + 1, Some("width of a layer's head outputs")),
    ] {
        let one = ("attention.head_count", Value::U32(1));
        let width = ("attention.value_length", Value::U32(width));
        let read = from_entries(&[layers.clone(), one, width]);
        match message {
            None => drop(read.unwrap()),
            Some(message) => assert!(read.unwrap_err().to_string().contains(message)),
        }
    }
    for (deep, fits) in [(16, true), (17, false)] {
        let deep = ("block_count", Value::U32(deep));
        let one = ("attention.head_count", Value::U32(1 << 10));
        let width = ("attention.value_length", Value::U32(1 << 10));
        let read = from_entries(&[deep, one, width]);
        match fits {
            true => drop(read.unwrap()),
            false => assert!(read
                .unwrap_err()
                .to_string()
                .contains("width of all layers' head outputs is 17825792")),
        }
    }
    let negative = ("attention.head_count", Array::I32(vec![4, -1]).into());
    let error = from_entries(&[layers.clone(), negative]).unwrap_err();
    assert!(matches!(*error.kind, GgufErrorKind::KeyType { .. }));
    let three = ("attention.head_count", Array::U32(vec![4; 3]).into());
    let error = from_entries(&[layers.clone(), three]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "<memory>: metadata key `gemma3.attention.head_count` is an array of 3, \
         expected one count for each of 2 layers"
    );
    let window = ("attention.value_length_swa", Value::U32(128));
    let error = from_entries(&[layers, heads, width, window]).unwrap_err();
    assert!(matches!(*error.kind, GgufErrorKind::KeyValue { .. }));
}
