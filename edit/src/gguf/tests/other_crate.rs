//! Cross-checks with `gguf-rs`, and the reasons in the module's head why it is not used
//! outside of tests: if one of these fails after an update, read that text again.

use gguf_rs::writer::{calculate_tensor_size, GGUFWriter, MetadataValue, TensorInfo as Theirs};
use gguf_rs::{get_gguf_container_array_size, GGUFModel};

use super::*;

fn their_reading(bytes: &[u8]) -> GGUFModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.gguf");
    fs::write(&path, bytes).unwrap();
    let mut file = get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX).unwrap();
    file.decode().unwrap()
}

#[test]
fn they_read_what_we_write() {
    let data: Vec<u8> = (0..24).collect();
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama").unwrap();
    metadata.insert("a.number", -5i16).unwrap();
    metadata.insert("a.float", 0.5f32).unwrap();
    metadata.insert("a.flag", true).unwrap();
    let words = vec!["one".to_owned(), "zwei".to_owned()];
    metadata.insert("a.words", Array::String(words)).unwrap();
    metadata.insert("a.counts", Array::U32(vec![3, 4])).unwrap();
    let mut writer = GgufWriter::new(metadata).unwrap();
    writer.add_tensor("t.f32", F32, &[3, 2], &data[..]).unwrap();
    writer.add_tensor("t.f16", F16, &[5], &data[..10]).unwrap();
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();

    let model = their_reading(&bytes);
    assert_eq!(model.get_version(), "v3");
    let read = serde_json::to_value(model.metadata()).unwrap();
    let expected = serde_json::json!({
        "general.architecture": "llama", "a.number": -5, "a.float": 0.5, "a.flag": true,
        "a.words": ["one", "zwei"], "a.counts": [3, 4],
    });
    assert_eq!(read, expected);
    for (tensor, len) in model.tensors().iter().zip([24, 10]) {
        let start = (model.data_offset() + tensor.offset) as usize;
        assert_eq!(tensor.size, len);
        assert_eq!(bytes[start..start + len as usize], data[..len as usize]);
    }
    assert_eq!(model.tensors()[0].shape, [3, 2]);
}

#[test]
fn we_read_what_they_write() {
    let folder = tempfile::tempdir().unwrap();
    for version in [2, 3] {
        let path = folder.path().join(format!("{version}.gguf"));
        let mut writer = GGUFWriter::new(&path, version).unwrap();
        writer.add_metadata("general.architecture", "llama");
        writer.add_metadata_u32("a.count", 7);
        let words = ["one", "zwei"].map(|word| MetadataValue::String(word.into()));
        writer.add_metadata_array("a.words", words.to_vec());
        for (name, shape, dtype) in [("a", vec![3, 2], F32), ("b", vec![64], 8)] {
            let name = name.to_owned();
            writer.add_tensor(Theirs { name, shape, dtype });
        }
        writer.write().unwrap();
        writer.write_tensor_data(0, &[1; 24]).unwrap();
        writer.write_tensor_data(1, &[2; 68]).unwrap();
        writer.finalize().unwrap();

        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.version(), version as u32);
        assert_eq!(gguf.metadata().u32("a.count").unwrap(), 7);
        let words = gguf.metadata().get("a.words").unwrap().as_array().unwrap();
        assert_eq!(words.as_strings().unwrap(), ["one", "zwei"]);
        assert_eq!(gguf.tensor("a").unwrap().bytes, [1; 24]);
        assert_eq!(gguf.tensor("b").unwrap().bytes, [2; 68]);
        assert_eq!(gguf.trailing_bytes(), 0);
    }
}

#[test]
fn tensor_sizes_differ_where_theirs_are_wrong() {
    let shape = vec![256];
    let mut differ = Vec::new();
    let mut theirs_only = Vec::new();
    let mut ours_only = Vec::new();
    for dtype in 0..64 {
        let name = String::from("t");
        let shape = shape.clone();
        let theirs = calculate_tensor_size(&Theirs { name, shape, dtype }).ok();
        let ours = GgmlType::from_id(dtype).map(|ty| 256 / ty.block * ty.bytes);
        match (theirs, ours) {
            (Some(theirs), Some(ours)) if theirs != ours => differ.push(dtype),
            (Some(_), None) => theirs_only.push(dtype),
            (None, Some(_)) => ours_only.push(dtype),
            _ => {}
        }
    }
    // Q8_1, IQ4_NL, I8 to F64, BF16, MXFP4.
    assert_eq!(differ, [9, 20, 24, 25, 26, 27, 28, 30, 39]);
    assert_eq!(theirs_only, [] as [u32; 0]);
    // NVFP4, Q1_0, Q2_0.
    assert_eq!(ours_only, [40, 41, 42]);
}

#[test]
#[should_panic(expected = "not a real data format")]
fn their_reader_panics_on_type_40() {
    let raw = Raw::default().tensor(b"t", &[64], 40, 0).data(36);
    assert_eq!(Gguf::parse(raw.bytes()).unwrap().tensors()[0].len, 36);
    their_reading(&raw.bytes());
}

#[test]
fn their_writer_cannot_store_head_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = GGUFWriter::new(folder.path().join("heads.gguf"), 3).unwrap();
    let (name, shape, dtype) = ("heads".to_owned(), vec![3], I32);
    writer.add_tensor(Theirs { name, shape, dtype });
    writer.write().unwrap();
    let error = writer.write_tensor_data(0, &[0; 12]).unwrap_err();
    assert!(
        error.to_string().contains("exceeds tensor size 0"),
        "{error}"
    );
}

#[test]
fn their_metadata_lose_types_and_duplicates() {
    let raw = Raw::default()
        .entry(b"k", 4, &1u32.to_le_bytes())
        .entry(b"k", 11, &2i64.to_le_bytes())
        .entry(b"nan", 6, &f32::NAN.to_le_bytes());
    let model = their_reading(&raw.bytes());
    let read = serde_json::to_string(model.metadata()).unwrap();
    assert_eq!(read, r#"{"k":2,"nan":null}"#);
}
