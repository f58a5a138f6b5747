//! Tests of the sidecar: what is written, what is read, what people see.

mod base;
mod errors;
mod golden;
pub(crate) mod properties;
mod training;

use super::*;
use crate::gguf::{Array, Gguf, GgufWriter, Value};

/// An edit of two of three layers, with everything that is optional.
pub(crate) fn example() -> Sidecar {
    let mut train = Metadata::new();
    train.insert("seed", 42u64).unwrap();
    train.insert("lambda", 0.5f32).unwrap();
    let both = LayerEdit {
        mul: Some(HeadVectors {
            heads: vec![1],
            values: vec![0.5, -0.25],
        }),
        add: Some(HeadVectors {
            heads: vec![0, 1],
            values: vec![3.0, 4.0, 0.0, -2.0],
        }),
    };
    let offset = LayerEdit {
        mul: None,
        add: Some(HeadVectors {
            heads: vec![3],
            values: vec![1.0, 1.0],
        }),
    };
    Sidecar {
        architecture: "llama".into(),
        name: "Example".into(),
        base_model_name: "Tiny".into(),
        block_count: 3,
        head_count: HeadCount::PerLayer(vec![2, 0, 4]),
        head_dim: 2,
        method: "jola".into(),
        base_sha256: Some("0123456789abcdef".repeat(4)),
        train,
        layers: BTreeMap::from([(0, both), (2, offset)]),
        warnings: vec![],
    }
}

fn to_bytes(sidecar: &Sidecar) -> Vec<u8> {
    let mut bytes = Vec::new();
    sidecar.write_to(&mut bytes).unwrap();
    bytes
}

fn from_bytes(bytes: Vec<u8>) -> Result<Sidecar, SidecarError> {
    Sidecar::from_gguf(&Gguf::parse(bytes).unwrap())
}

/// A sidecar's file as lists that a test can change before it is written.
struct Parts {
    entries: Vec<(String, Value)>,
    tensors: Vec<(String, u32, Vec<u64>, Vec<u8>)>,
}

impl Parts {
    fn of(sidecar: &Sidecar) -> Self {
        let gguf = Gguf::parse(to_bytes(sidecar)).unwrap();
        let entries = gguf.metadata().iter();
        let tensors = gguf.iter().map(|tensor| {
            let info = tensor.info.clone();
            (info.name, info.ty, info.dims, tensor.bytes.to_vec())
        });
        Self {
            entries: entries
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect(),
            tensors: tensors.collect(),
        }
    }

    fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.entries.retain(|(name, _)| name != key);
        self.entries.push((key.to_owned(), value.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        let before = self.entries.len() + self.tensors.len();
        self.entries.retain(|(key, _)| key != name);
        self.tensors.retain(|(tensor, ..)| tensor != name);
        assert_eq!(self.entries.len() + self.tensors.len() + 1, before);
        self
    }

    fn tensor(mut self, name: &str, ty: u32, dims: &[u64], data: &[u8]) -> Self {
        self.tensors.retain(|(tensor, ..)| tensor != name);
        self.tensors
            .push((name.to_owned(), ty, dims.to_vec(), data.to_vec()));
        self
    }

    fn bytes(self) -> Vec<u8> {
        let mut metadata = Metadata::new();
        for (key, value) in self.entries {
            metadata.insert(key, value).unwrap();
        }
        let mut writer = GgufWriter::new(metadata).unwrap();
        for (name, ty, dims, data) in self.tensors {
            writer.add_tensor(name, ty, &dims, data).unwrap();
        }
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        bytes
    }

    fn read(self) -> Result<Sidecar, SidecarError> {
        from_bytes(self.bytes())
    }
}

#[test]
fn a_file_round_trip_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edit.gguf");
    example().write(&path).unwrap();
    assert_eq!(Sidecar::read(&path).unwrap(), example());
}

#[test]
fn without_what_is_optional() {
    let sidecar = Sidecar {
        head_count: HeadCount::Uniform(2),
        base_sha256: None,
        train: Metadata::new(),
        layers: BTreeMap::new(),
        ..example()
    };
    assert_eq!(from_bytes(to_bytes(&sidecar)).unwrap(), sidecar);
}

#[test]
fn order_in_the_file_does_not_matter() {
    let mut parts = Parts::of(&example());
    parts.entries.reverse();
    parts.tensors.reverse();
    let read = parts.read().unwrap();
    assert_eq!(read.layers, example().layers);
    assert_eq!(read.architecture, example().architecture);
}

#[test]
fn dimensions_of_one_at_the_end_have_no_meaning() {
    // As ggml itself writes the tensors of a single head.
    let parts = Parts::of(&example());
    let parts = parts
        .tensor(
            "blk.0.attn_output.jola_mul",
            0,
            &[2],
            &[0, 0, 0, 63, 0, 0, 128, 190],
        )
        .tensor(
            "blk.0.attn_output.jola_mul_heads",
            26,
            &[1, 1],
            &[1, 0, 0, 0],
        );
    assert_eq!(parts.read().unwrap(), example());
}

#[test]
fn unknown_keys_under_jola_are_warned_about_and_others_ignored() {
    let parts = Parts::of(&example())
        .set("jola.colour", "blue")
        .set("jola.train.", 1u8)
        .set("general.license", "MIT");
    let read = parts.read().unwrap();
    let expected = [
        "unknown metadata key `jola.colour` is ignored",
        "unknown metadata key `jola.train.` is ignored",
    ];
    assert_eq!(read.warnings, expected);
    assert_eq!(read.layers, example().layers);
}

#[test]
fn an_invalid_sidecar_is_refused_before_the_first_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edit.gguf");
    let mut sidecar = example();
    sidecar.head_dim = 3;
    let error = sidecar.write(&path).unwrap_err();
    assert!(matches!(*error.kind, SidecarErrorKind::Shape { .. }));
    assert!(error.to_string().starts_with(path.to_str().unwrap()));
    assert!(!path.exists());
}

#[test]
fn stats_count_a_head_once() {
    let stats = example().stats();
    let head = |layer, head, mul, add| HeadNorms {
        layer,
        head,
        mul,
        add,
    };
    let expected = SidecarStats {
        layers: 3,
        edited_layers: 2,
        heads: 6,
        edited_heads: 3,
        open_mul: 1,
        open_add: 3,
        values: 8,
        full_values: 24,
        norms: vec![
            head(0, 0, None, Some(5.0)),
            head(0, 1, Some(0.3125f64.sqrt()), Some(2.0)),
            head(2, 3, None, Some(2f64.sqrt())),
        ],
    };
    assert_eq!(stats, expected);
    let json = serde_json::to_value(&stats.norms[0]).unwrap();
    let expected = serde_json::json!({"layer": 0, "head": 0, "mul": null, "add": 5.0});
    assert_eq!(json, expected);
}

#[test]
fn names_follow_the_convention() {
    assert_eq!(
        file_name("SmolLM2", "135M", "routing"),
        "jola-SmolLM2-135M-routing.gguf"
    );
    assert_eq!(
        file_name(" Smol LM/2 ", "", "a\tb\\c"),
        "jola-Smol-LM-2-a-b-c.gguf"
    );
    assert_eq!(file_name("", "", ""), "jola.gguf");
}

#[test]
fn sha256_is_the_standard_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abc");
    std::fs::write(&path, "abc").unwrap();
    assert_eq!(
        sha256(&path).unwrap(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert!(sha256(folder.path().join("none")).is_err());
}
