//! Tests of the container. `Raw` builds files byte by byte, so that the reader is not only
//! tested against this crate's writer.

mod errors;
mod other_crate;
pub(crate) mod properties;

use std::fs;

use super::*;

/// A GGUF file in the making; nothing in it is checked.
#[derive(Clone, Default)]
pub(super) struct Raw {
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub data: Vec<u8>,
}

impl Raw {
    pub fn entry(mut self, key: &[u8], ty: u32, payload: &[u8]) -> Self {
        self.entries
            .push([&sized(key)[..], &ty.to_le_bytes(), payload].concat());
        self
    }

    pub fn tensor(mut self, name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Self {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        self.tensors.push(
            [
                &sized(name)[..],
                &(dims.len() as u32).to_le_bytes(),
                &dims_bytes,
                &ty.to_le_bytes(),
                &offset.to_le_bytes(),
            ]
            .concat(),
        );
        self
    }

    pub fn data(mut self, len: usize) -> Self {
        self.data = (0..len).map(|i| i as u8).collect();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_of_version(3)
    }

    pub fn bytes_of_version(&self, version: u32) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        bytes.extend(self.entries.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

/// A length as GGUF stores it, then the bytes.
pub(super) fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// Two tensors, the second after padding.
fn two_tensors() -> Raw {
    Raw::default()
        .entry(b"a.count", 4, &7u32.to_le_bytes())
        .entry(b"a.text", 8, &sized(b"caf\xc3\xa9"))
        .tensor(b"first", &[3], F32, 0)
        .tensor(b"second", &[2, 2], I32, 32)
        .data(48)
}

#[test]
fn reads_hand_made_bytes() {
    for version in [2, 3] {
        let gguf = Gguf::parse(two_tensors().bytes_of_version(version)).unwrap();
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.alignment(), 32);
        assert_eq!(gguf.metadata().u32("a.count").unwrap(), 7);
        assert_eq!(gguf.metadata().str("a.text").unwrap(), "café");
        let second = gguf.tensor("second").unwrap();
        assert_eq!(second.info.dims, [2, 2]);
        assert_eq!(second.info.padded_dims(), [2, 2, 1, 1]);
        assert_eq!(second.bytes, &two_tensors().data[32..48]);
        assert_eq!(second.to_i32s().unwrap()[0], 0x2322_2120);
        assert_eq!(second.to_f32s(), None);
        assert!(gguf.tensor("third").is_none());
        assert_eq!(gguf.iter().count(), 2);
    }
}

#[test]
fn reads_every_value_type() {
    let array = |ty: u32, len: u64, payload: &[u8]| {
        [&ty.to_le_bytes()[..], &len.to_le_bytes(), payload].concat()
    };
    let raw = Raw::default()
        .entry(b"u8", 0, &[255])
        .entry(b"i8", 1, &[255])
        .entry(b"u16", 2, &[1, 2])
        .entry(b"i16", 3, &[255, 255])
        .entry(b"u32", 4, &[1, 2, 3, 4])
        .entry(b"i32", 5, &[255, 255, 255, 255])
        .entry(b"f32", 6, &1.5f32.to_le_bytes())
        .entry(b"bool", 7, &[1])
        .entry(b"string", 8, &sized(b"text"))
        .entry(b"u64", 10, &u64::MAX.to_le_bytes())
        .entry(b"i64", 11, &i64::MIN.to_le_bytes())
        .entry(b"f64", 12, &2.5f64.to_le_bytes())
        .entry(b"bools", 9, &array(7, 2, &[1, 0]))
        .entry(b"u16s", 9, &array(2, 2, &[1, 2, 3, 4]))
        .entry(
            b"strings",
            9,
            &array(8, 2, &[sized(b"a"), sized(b"")].concat()),
        )
        .entry(b"bytes", 9, &array(8, 1, &sized(b"\xff")))
        .entry(b"empty", 9, &array(12, 0, &[]));
    let gguf = Gguf::parse(raw.bytes()).unwrap();
    let expected: [(&str, Value); 17] = [
        ("u8", 255u8.into()),
        ("i8", (-1i8).into()),
        ("u16", 0x0201u16.into()),
        ("i16", (-1i16).into()),
        ("u32", 0x0403_0201u32.into()),
        ("i32", (-1i32).into()),
        ("f32", 1.5f32.into()),
        ("bool", true.into()),
        ("string", "text".into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f64", 2.5f64.into()),
        ("bools", Array::Bool(vec![true, false]).into()),
        ("u16s", Array::U16(vec![0x0201, 0x0403]).into()),
        ("strings", Array::String(vec!["a".into(), "".into()]).into()),
        ("bytes", Array::Bytes(vec![vec![0xff]]).into()),
        ("empty", Array::F64(vec![]).into()),
    ];
    for ((key, value), (expected_key, expected)) in gguf.metadata().iter().zip(&expected) {
        assert_eq!((key, value), (*expected_key, expected));
    }
    assert_eq!(gguf.metadata().len(), expected.len());
}

#[test]
fn getters_take_what_they_document() {
    assert_eq!(Value::U32(3).as_u32(), Some(3));
    assert_eq!(Value::U64(3).as_u32(), None);
    assert_eq!(Value::I8(3).as_u64(), Some(3));
    assert_eq!(Value::I8(-3).as_u64(), None);
    assert_eq!(Value::U64(u64::MAX).as_u64(), Some(u64::MAX));
    assert_eq!(Value::U64(u64::MAX).as_i64(), None);
    assert_eq!(Value::F32(0.5).as_f64(), Some(0.5));
    assert_eq!(Value::F64(0.5).as_f32(), None);
    assert_eq!(Value::Bool(true).as_bool(), Some(true));
    assert_eq!(Value::U8(1).as_bool(), None);
    assert_eq!(Array::I32(vec![1, -1]).to_u32s(), None);
    assert_eq!(Array::I32(vec![1, 2]).to_u32s(), Some(vec![1, 2]));
    let words = Value::from(Array::String(vec!["a".into()]));
    assert_eq!(words.as_array().unwrap().as_strings().unwrap(), ["a"]);
}

#[test]
fn alignment_of_the_metadata_is_honoured() {
    let mut metadata = Metadata::new();
    metadata.insert(ALIGNMENT_KEY, 64u32).unwrap();
    let mut writer = GgufWriter::new(metadata).unwrap();
    for name in ["a", "b"] {
        writer.add_tensor(name, 24, &[3], &[1u8, 2, 3][..]).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    assert_eq!(bytes.len() % 64, 0);
    let gguf = Gguf::parse(bytes).unwrap();
    assert_eq!(gguf.alignment(), 64);
    assert_eq!(gguf.tensors()[1].offset, 64);
    assert_eq!(gguf.tensor("b").unwrap().bytes, [1, 2, 3]);
}

#[test]
fn trailing_bytes_are_counted() {
    let whole = two_tensors().data(64);
    assert_eq!(Gguf::parse(whole.bytes()).unwrap().trailing_bytes(), 0);
    let padding_missing = two_tensors();
    let gguf = Gguf::parse(padding_missing.bytes()).unwrap();
    assert_eq!(gguf.trailing_bytes(), 0);
    let longer = two_tensors().data(67);
    assert_eq!(Gguf::parse(longer.bytes()).unwrap().trailing_bytes(), 3);
}

#[test]
fn a_file_without_tensors_need_not_be_padded() {
    let mut bytes = Raw::default().bytes();
    bytes.truncate(24);
    assert_eq!(Gguf::parse(bytes).unwrap().trailing_bytes(), 0);
}

#[test]
fn a_scalar_and_an_empty_tensor_have_their_sizes() {
    let raw = Raw::default()
        .tensor(b"scalar", &[], F32, 0)
        .tensor(b"empty", &[0, 5], F32, 32)
        .data(32);
    let gguf = Gguf::parse(raw.bytes()).unwrap();
    assert_eq!(gguf.tensors()[0].len, 4);
    assert_eq!(gguf.tensors()[0].elements(), 1);
    assert_eq!(gguf.tensors()[1].len, 0);
    assert_eq!(gguf.tensors()[1].elements(), 0);
}

#[test]
fn streamed_and_given_data_make_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let data = [5u8; 300];
    let write = |name: &str, tensor: TensorData<'_>| {
        let path = folder.path().join(name);
        let mut writer = GgufWriter::new(Metadata::new()).unwrap();
        writer.add_tensor("t", 24, &[300], tensor).unwrap();
        writer.write(&path).unwrap();
        fs::read(path).unwrap()
    };
    let given = write("given", data[..].into());
    let streamed = write(
        "streamed",
        TensorData::stream(|out| data.chunks(7).try_for_each(|part| out.write_all(part))),
    );
    assert_eq!(given, streamed);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, "old").unwrap();
    let mut writer = GgufWriter::new(Metadata::new()).unwrap();
    let failing = TensorData::stream(|_| Err(std::io::Error::other("no data today")));
    writer.add_tensor("t", F32, &[1], failing).unwrap();
    let error = writer.write(&path).unwrap_err();
    assert!(error.to_string().ends_with("no data today"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_large_vocabulary_survives_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocabulary.gguf");
    let tokens: Vec<String> = (0..262_144).map(|id| format!("token {id}")).collect();
    let mut metadata = Metadata::new();
    metadata
        .insert("tokens", Array::String(tokens.clone()))
        .unwrap();
    GgufWriter::new(metadata).unwrap().write(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let array = gguf.metadata().get("tokens").unwrap().as_array().unwrap();
    assert_eq!(array.as_strings().unwrap(), tokens);
    assert_eq!(gguf.path(), path);
}

#[test]
fn values_serialise_as_plain_json() {
    let mut metadata = Metadata::new();
    metadata.insert("z", 1u32).unwrap();
    metadata.insert("a", "text").unwrap();
    metadata.insert("m", Array::F32(vec![0.5, 2.0])).unwrap();
    let json = serde_json::to_string(&metadata).unwrap();
    assert_eq!(json, r#"{"z":1,"a":"text","m":[0.5,2.0]}"#);
}
