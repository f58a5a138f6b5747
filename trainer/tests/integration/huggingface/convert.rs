//! The directory read as a GGUF is the GGUF that llama.cpp's converter makes of it.

use jola_edit::gguf::{Array, Value};
use jola_trainer::base;
use serde_json::{json, Value as Json};
use sha2::{Digest, Sha256};

use super::fixture::{values, Golden, CASES};

/// Metadata as make.py writes them.
fn to_json(value: &Value) -> Json {
    match value {
        Value::U32(value) => json!(value),
        Value::F32(value) => json!(f64::from(*value)),
        Value::Bool(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Array(Array::Bool(values)) => json!(values),
        other => panic!("{other:?}"),
    }
}

/// Equal, numbers by value: with serde_json's `arbitrary_precision`, which other packages'
/// tests switch on in a common build, 1e-6 and 1e-06 are different as they stand.
fn same(found: &serde_json::Value, expected: &serde_json::Value) -> bool {
    match (found.as_f64(), expected.as_f64()) {
        (Some(found), Some(expected)) => found == expected,
        _ => found == expected,
    }
}

#[test]
fn metadata_and_tensors_are_the_converters() {
    for case in CASES {
        let golden = Golden::read(case);
        let folder = tempfile::tempdir().unwrap();
        golden.write(folder.path());
        let base = base::open(folder.path()).unwrap();
        let prefix = base.metadata().str("general.architecture").unwrap();
        let own_size = format!("{prefix}.vocab_size");

        for (key, expected) in &golden.metadata {
            let found = base.metadata().get(key).map(to_json);
            let found = found.unwrap_or_else(|| panic!("{case}: {key} is missing"));
            assert!(same(&found, expected), "{case}: {key}: {found} {expected}");
        }
        for (key, _) in base.metadata().iter() {
            let added = key == "general.name" || key == own_size;
            assert!(added || golden.metadata.contains_key(key), "{case}: {key}");
        }

        let mut names = base.tensor_names();
        names.sort_unstable();
        let expected: Vec<&str> = golden.tensors.keys().map(String::as_str).collect();
        assert_eq!(names, expected, "{case}");
        for (name, (dims, digest)) in &golden.tensors {
            assert_eq!(&base.tensor(name).unwrap().dims, dims, "{case}: {name}");
            let mut hasher = Sha256::new();
            for value in values(&*base, name) {
                hasher.update(value.to_le_bytes());
            }
            let found = format!("{:x}", hasher.finalize());
            assert_eq!(&found, digest, "{case}: {name}");
        }
    }
}
