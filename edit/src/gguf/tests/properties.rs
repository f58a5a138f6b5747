//! What must hold for any content: a round trip changes nothing, the same content gives the
//! same bytes, and no damage to a file makes the reader panic.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn arrays() -> impl Strategy<Value = Array> {
    prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<f32>(), 0..9).prop_map(Array::F32),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(any::<String>(), 0..9).prop_map(Array::String),
        // At least one element that is not UTF-8, or the reader would say `String`.
        vec(vec(any::<u8>(), 0..9), 0..9).prop_map(|mut texts| {
            texts.push(vec![0xff]);
            Array::Bytes(texts)
        }),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<f64>(), 0..9).prop_map(Array::F64),
    ]
}

pub(crate) fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        arrays().prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

/// Type and dimensions, with whole blocks in each row.
type Shape = (u32, Vec<u64>);

fn shapes() -> impl Strategy<Value = Shape> {
    let types = prop::sample::select(vec![F32, F16, 2, 8, 14, 24, I32, 28, BF16, 39, 40, 41]);
    (types, vec(0u64..3, 0..4), 0u64..3).prop_map(|(ty, rest, blocks)| {
        let block = GgmlType::from_id(ty).unwrap().block;
        let dims = [blocks * block].into_iter().chain(rest).collect();
        (ty, dims)
    })
}

type Content = (Vec<(String, Value)>, Vec<(String, Shape, u8)>);

fn contents() -> impl Strategy<Value = Content> {
    let entries = btree_map("[a-z.]{1,9}", values(), 0..9);
    let tensors = btree_map("[a-z.]{1,9}", (shapes(), any::<u8>()), 0..6);
    (entries, tensors).prop_map(|(entries, tensors)| {
        let tensors = tensors.into_iter();
        (
            entries.into_iter().collect(),
            tensors
                .map(|(name, (shape, fill))| (name, shape, fill))
                .collect(),
        )
    })
}

/// Bytes of a tensor whose data are all `fill`.
fn filled(ty: u32, dims: &[u64], fill: u8) -> Vec<u8> {
    let info = TensorInfo::new("t".into(), ty, dims.to_vec()).unwrap();
    vec![fill; info.len as usize]
}

fn write((entries, tensors): &Content) -> Vec<u8> {
    let mut metadata = Metadata::new();
    for (key, value) in entries {
        metadata.insert(key.clone(), value.clone()).unwrap();
    }
    let mut writer = GgufWriter::new(metadata).unwrap();
    for (name, (ty, dims), fill) in tensors {
        let data = filled(*ty, dims, *fill);
        writer.add_tensor(name.clone(), *ty, dims, data).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn round_trip(content in contents()) {
        let bytes = write(&content);
        prop_assert_eq!(&bytes, &write(&content));
        let gguf = Gguf::parse(bytes).unwrap();
        let (entries, tensors) = content;
        let read: Vec<(String, Value)> = gguf
            .metadata()
            .iter()
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect();
        prop_assert_eq!(read, entries);
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        prop_assert_eq!(gguf.trailing_bytes(), 0);
        for (name, (ty, dims), fill) in tensors {
            let tensor = gguf.tensor(&name).unwrap();
            prop_assert_eq!(tensor.info.ty, ty);
            prop_assert_eq!(&tensor.info.dims, &dims);
            prop_assert_eq!(tensor.bytes, &filled(ty, &dims, fill)[..]);
        }
    }

    #[test]
    fn damage_never_panics(
        content in contents(),
        damage in vec((any::<Index>(), any::<u8>()), 0..4),
        wide in prop::option::of((any::<Index>(), any::<u64>())),
        cut in prop::option::of(any::<Index>()),
    ) {
        let mut bytes = write(&content);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((at, number)) = wide {
            let at = at.index(bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(gguf) = Gguf::parse(bytes) {
            // What was accepted can be used.
            for tensor in gguf.iter() {
                prop_assert_eq!(tensor.bytes.len() as u64, tensor.info.len);
            }
        }
    }

    #[test]
    fn noise_never_panics(noise in vec(any::<u8>(), 0..200)) {
        let bytes = [&b"GGUF\x03\0\0\0"[..], &noise].concat();
        let _ = Gguf::parse(bytes);
    }
}
