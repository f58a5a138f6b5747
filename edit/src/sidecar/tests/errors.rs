//! One test for each way in which a sidecar can be wrong.

use super::*;
use crate::gguf::{GgufErrorKind, F16, F32, I32};

const MUL: &str = "blk.0.attn_output.jola_mul";
const MUL_HEADS: &str = "blk.0.attn_output.jola_mul_heads";
const ADD: &str = "blk.0.attn_output.jola_add";
const ADD_HEADS: &str = "blk.0.attn_output.jola_add_heads";

/// Asserts that a file is refused with a kind and a message.
macro_rules! assert_refused {
    ($parts:expr, $kind:pat, $text:expr) => {{
        let error = $parts.read().unwrap_err();
        assert!(matches!(*error.kind, $kind), "{error:?}");
        assert_eq!(error.to_string(), format!("<memory>: {}", $text));
    }};
}

fn parts() -> Parts {
    Parts::of(&example())
}

fn i32s(numbers: &[i32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

#[test]
fn not_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edit.gguf");
    std::fs::write(&path, "something else").unwrap();
    let error = Sidecar::read(&path).unwrap_err();
    assert!(matches!(
        *error.kind,
        SidecarErrorKind::Gguf(GgufErrorKind::Magic { .. })
    ));
    let expected = format!("{}: not a GGUF file", path.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn missing_keys() {
    let optional = ["jola.base.sha256", "jola.train.seed", "jola.train.lambda"];
    for (key, _) in parts().entries {
        let read = parts().without(&key).read();
        if optional.contains(&key.as_str()) {
            assert!(read.is_ok(), "{key}");
            continue;
        }
        let error = read.unwrap_err();
        assert!(matches!(
            *error.kind,
            SidecarErrorKind::Gguf(GgufErrorKind::MissingKey { .. })
        ));
        let expected = format!("<memory>: metadata key `{key}` is missing");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn key_types() {
    for (key, value) in parts().entries {
        if key.starts_with("jola.train.") {
            continue;
        }
        // A number of another width, or a number instead of text.
        let error = parts().set(&key, 1u64).read().unwrap_err();
        assert!(matches!(
            *error.kind,
            SidecarErrorKind::Gguf(GgufErrorKind::KeyType { .. })
        ));
        let expected = match value {
            Value::U32(_) => "u32",
            Value::Array(_) => "u32 or array of u32",
            _ => "string",
        };
        let expected =
            format!("<memory>: metadata key `{key}` is of type u64, expected {expected}");
        assert_eq!(error.to_string(), expected);
    }
    let signed = parts().set("jola.head_count", Array::I32(vec![2, 0, 4]));
    assert_refused!(
        signed,
        SidecarErrorKind::Gguf(GgufErrorKind::KeyType { .. }),
        "metadata key `jola.head_count` is of type array of i32, expected u32 or array of u32"
    );
}

#[test]
fn general_type() {
    assert_refused!(
        parts().set("general.type", "model"),
        SidecarErrorKind::GeneralType { .. },
        "`general.type` is `model`, expected `adapter`"
    );
}

#[test]
fn adapter_type() {
    assert_refused!(
        parts().set("adapter.type", "lora"),
        SidecarErrorKind::AdapterType { .. },
        "`adapter.type` is `lora`, expected `jola`"
    );
}

#[test]
fn newer_format() {
    // Said first, whatever else a newer format may have changed.
    let newer = parts().set("jola.format_version", 2u32);
    assert_refused!(
        newer.set("jola.head_dim", "wide"),
        SidecarErrorKind::NewerFormat { .. },
        "`jola.format_version` is 2, this version of the program reads up to 1"
    );
}

#[test]
fn zero() {
    let keys = [
        "jola.format_version",
        "jola.block_count",
        "jola.head_count",
        "jola.head_dim",
    ];
    for key in keys {
        let mut parts = parts().set(key, 0u32);
        if key == "jola.block_count" {
            parts = parts.set("jola.head_count", 4u32);
        }
        let text = format!("`{key}` is 0, expected at least 1");
        assert_refused!(parts, SidecarErrorKind::Zero { .. }, text);
    }
    let text = "`jola.head_count` is 0, expected at least 1";
    let no_layer = parts().set("jola.head_count", Array::U32(vec![0; 3]));
    assert_refused!(no_layer, SidecarErrorKind::Zero { .. }, text);
}

#[test]
fn too_many_layers() {
    let layers = parts().set("jola.block_count", MAX_BLOCK_COUNT + 1);
    assert_refused!(
        layers,
        SidecarErrorKind::TooManyLayers { .. },
        "`jola.block_count` is 4097, the limit is 4096"
    );
}

#[test]
fn row_too_long() {
    let longest = parts().set("jola.head_dim", 1u32 << 18);
    let error = longest.read().unwrap_err();
    assert!(matches!(*error.kind, SidecarErrorKind::Shape { .. }));
    let longer = parts().set("jola.head_dim", (1u32 << 18) + 1);
    assert_refused!(
        longer,
        SidecarErrorKind::RowTooLong { .. },
        "`jola.head_count` 4 times `jola.head_dim` 262145 exceeds 1048576"
    );
    let largest = parts()
        .set("jola.head_count", u32::MAX)
        .set("jola.head_dim", u32::MAX);
    let error = largest.read().unwrap_err();
    assert!(matches!(*error.kind, SidecarErrorKind::RowTooLong { .. }));
}

#[test]
fn model_too_large() {
    // The header alone decides, so that nothing is allocated for what it promises.
    let wide = |layers: u32, heads: u32, width: u32| {
        parts()
            .set("jola.block_count", layers)
            .set("jola.head_count", heads)
            .set("jola.head_dim", width)
    };
    for [layers, heads, width] in [[16, 1 << 10, 1 << 10], [4096, 1 << 12, 1]] {
        assert_eq!(u64::from(layers * heads * width), MAX_MODEL_LEN);
        let error = wide(layers, heads, width).read().unwrap_err();
        assert!(matches!(*error.kind, SidecarErrorKind::Shape { .. }));
    }
    assert_refused!(
        wide(4096, (1 << 12) + 1, 1),
        SidecarErrorKind::ModelTooLarge { .. },
        "16781312 heads in all layers times `jola.head_dim` 1 exceeds 16777216"
    );
    let counts = Array::U32(vec![1 << 20; 17]);
    let array = wide(17, 0, 1).set("jola.head_count", counts);
    let error = array.read().unwrap_err();
    assert!(matches!(
        *error.kind,
        SidecarErrorKind::ModelTooLarge { .. }
    ));
}

#[test]
fn head_count_length() {
    let two = parts().set("jola.head_count", Array::U32(vec![2, 4]));
    assert_refused!(
        two,
        SidecarErrorKind::HeadCountLength { .. },
        "`jola.head_count` has 2 elements, expected `jola.block_count` = 3"
    );
}

#[test]
fn sha256_format() {
    let digests = [
        "",
        "0123",
        &"A".repeat(64),
        &"g".repeat(64),
        &"0".repeat(65),
    ];
    for digest in digests {
        let text =
            format!("`jola.base.sha256` is `{digest}`, expected 64 lowercase hexadecimal digits");
        assert_refused!(
            parts().set("jola.base.sha256", digest),
            SidecarErrorKind::Sha256 { .. },
            text
        );
    }
}

#[test]
fn unknown_tensor() {
    let names = [
        "blk.0.attn_output.weight",
        "blk.0.attn_output.jola_mul.scale",
        "blk.00.attn_output.jola_mul",
        "blk.+0.attn_output.jola_mul",
        "blk.x.attn_output.jola_mul",
        "blk..attn_output.jola_mul",
        "token_embd.weight",
    ];
    for name in names {
        let parts = parts().tensor(name, F32, &[1], &f32s(&[0.0]));
        let text = format!("unknown tensor `{name}`");
        assert_refused!(parts, SidecarErrorKind::UnknownTensor { .. }, text);
    }
}

#[test]
fn tensor_type() {
    let half = parts().tensor(MUL, F16, &[2, 1], &[0; 4]);
    let text = format!("tensor `{MUL}` is of type f16, expected f32");
    assert_refused!(half, SidecarErrorKind::TensorType { .. }, text);
    let float = parts().tensor(MUL_HEADS, F32, &[1], &f32s(&[1.0]));
    let text = format!("tensor `{MUL_HEADS}` is of type f32, expected i32");
    assert_refused!(float, SidecarErrorKind::TensorType { .. }, text);
}

#[test]
fn heads_without_vectors() {
    let text = format!("tensor `{MUL_HEADS}` has no vectors: `{MUL}` is missing");
    assert_refused!(
        parts().without(MUL),
        SidecarErrorKind::HeadsWithoutVectors { .. },
        text
    );
}

#[test]
fn vectors_without_heads() {
    let text = format!("tensor `{ADD}` has no head numbers: `{ADD_HEADS}` is missing");
    assert_refused!(
        parts().without(ADD_HEADS),
        SidecarErrorKind::VectorsWithoutHeads { .. },
        text
    );
}

#[test]
fn shape() {
    let data = f32s(&[0.0; 4]);
    let shapes: [&[u64]; 4] = [&[4], &[4, 1], &[1, 4], &[2, 1, 2]];
    for dims in shapes {
        let text = format!("tensor `{ADD}` has shape {dims:?}, expected [2, 2]");
        let parts = parts().tensor(ADD, F32, dims, &data);
        assert_refused!(parts, SidecarErrorKind::Shape { .. }, text);
    }
    let square = parts().tensor(ADD_HEADS, I32, &[2, 2], &i32s(&[0, 1, 0, 1]));
    let text = format!("tensor `{ADD_HEADS}` has shape [2, 2], expected [2]");
    assert_refused!(square, SidecarErrorKind::Shape { .. }, text);
    let three = parts().tensor(ADD_HEADS, I32, &[3], &i32s(&[0, 1, 2]));
    let text = format!("tensor `{ADD}` has shape [2, 2], expected [2, 3]");
    assert_refused!(three, SidecarErrorKind::Shape { .. }, text);
}

#[test]
fn shape_in_memory() {
    let mut sidecar = example();
    let add = sidecar.layers.get_mut(&2).unwrap().add.as_mut().unwrap();
    add.values.push(0.0);
    let error = sidecar.validate().unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor `blk.2.attn_output.jola_add` has shape [3], expected [2, 1]"
    );
}

#[test]
fn no_heads() {
    let none = parts()
        .tensor(ADD, F32, &[2, 0], &[])
        .tensor(ADD_HEADS, I32, &[0], &[]);
    let text = format!("tensor `{ADD_HEADS}` names no head, expected at least one");
    assert_refused!(none, SidecarErrorKind::NoHeads { .. }, &text);
    let mut sidecar = example();
    let (heads, values) = (vec![], vec![]);
    sidecar.layers.get_mut(&0).unwrap().add = Some(HeadVectors { heads, values });
    assert_eq!(sidecar.validate().unwrap_err().to_string(), text);
}

#[test]
fn layer_out_of_range() {
    for layer in [3, u64::from(u32::MAX) + 1, u64::MAX] {
        let name = format!("blk.{layer}.attn_output.jola_mul");
        let parts = parts().tensor(&name, F32, &[2, 1], &f32s(&[0.0; 2]));
        let text = format!("layer {layer} is edited, but `jola.block_count` is 3");
        assert_refused!(parts, SidecarErrorKind::LayerOutOfRange { .. }, text);
    }
    let mut sidecar = example();
    sidecar.layers.insert(3, sidecar.layers[&0].clone());
    let error = sidecar.validate().unwrap_err();
    assert!(matches!(error, SidecarErrorKind::LayerOutOfRange { .. }));
}

#[test]
fn empty_layer() {
    let mut sidecar = example();
    sidecar.layers.insert(2, LayerEdit::default());
    let error = sidecar.validate().unwrap_err();
    assert!(matches!(error, SidecarErrorKind::EmptyLayer { layer: 2 }));
}

#[test]
fn head_out_of_range() {
    for head in [2, -1, i32::MIN] {
        let parts = parts().tensor(MUL_HEADS, I32, &[1], &i32s(&[head]));
        let text = format!("tensor `{MUL_HEADS}` names head {head}, but the layer has 2 heads");
        assert_refused!(parts, SidecarErrorKind::HeadOutOfRange { .. }, text);
    }
}

#[test]
fn duplicate_head() {
    let twice = parts().tensor(ADD_HEADS, I32, &[2], &i32s(&[1, 1]));
    let text = format!("tensor `{ADD_HEADS}` names head 1 twice");
    assert_refused!(twice, SidecarErrorKind::DuplicateHead { .. }, text);
}

#[test]
fn head_order() {
    let falling = parts().tensor(ADD_HEADS, I32, &[2], &i32s(&[1, 0]));
    let text = format!("tensor `{ADD_HEADS}` names head 0 after head 1, expected ascending order");
    assert_refused!(falling, SidecarErrorKind::HeadOrder { .. }, text);
}

#[test]
fn not_finite() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let data = f32s(&[0.0, 0.0, value, 0.0]);
        let parts = parts().tensor(ADD, F32, &[2, 2], &data);
        let text = format!("tensor `{ADD}` holds {value} at index 2, expected a finite number");
        assert_refused!(parts, SidecarErrorKind::NotFinite { .. }, text);
    }
}

#[test]
fn trailing_bytes() {
    let mut bytes = to_bytes(&example());
    bytes.push(0);
    let error = from_bytes(bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "<memory>: 1 bytes follow the last tensor, expected none"
    );
}
