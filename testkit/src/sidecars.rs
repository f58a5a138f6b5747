//! Sidecars for the tests: the golden one, random ones, and ones with single faults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jola_edit::gguf::{Gguf, GgufWriter, Metadata, Value};
use jola_edit::sidecar::BaseShape;
use jola_edit::{HeadVectors, LayerEdit, Sidecar};

use crate::{base_model, repository, Random};

/// The sidecar that tests/golden/make.py wrote with the Python package's writer.
pub fn golden() -> PathBuf {
    repository("tests/golden/edit.gguf")
}

/// An edit of nothing, for the base model.
pub fn empty() -> Sidecar {
    let base = BaseShape::from_gguf(&Gguf::open(base_model()).unwrap()).unwrap();
    base.sidecar("random", BTreeMap::new())
}

/// Scale and offset of every head of every layer, scales in ±`mul`, offsets in ±`add`: the
/// same numbers for the same seed as in tests/golden/make.py.
pub fn every_head(seed: u64, mul: f32, add: f32) -> Sidecar {
    let mut random = Random::new(seed);
    let mut sidecar = empty();
    for layer in 0..sidecar.block_count {
        let heads: Vec<u32> = (0..sidecar.head_count.at(layer).unwrap()).collect();
        let len = heads.len() * sidecar.head_dim as usize;
        let mut vectors = |limit: f32| {
            let values = (0..len).map(|_| random.signed() * limit).collect();
            let heads = heads.clone();
            Some(HeadVectors { heads, values })
        };
        let edit = LayerEdit {
            mul: vectors(mul),
            add: vectors(add),
        };
        sidecar.layers.insert(layer, edit);
    }
    sidecar
}

/// One vector for head `head`.
pub fn one_head(head: u32, values: Vec<f32>) -> Option<HeadVectors> {
    let heads = vec![head];
    Some(HeadVectors { heads, values })
}

/// A tensor of a sidecar in the making.
pub struct RawTensor {
    /// Its name.
    pub name: String,
    /// ggml's number of its type.
    pub ty: u32,
    /// Its dimensions, fastest first.
    pub dims: Vec<u64>,
    /// Its data.
    pub bytes: Vec<u8>,
}

/// The golden sidecar taken apart, to be written again with a fault that `Sidecar::write`
/// would refuse to write.
pub struct RawSidecar {
    /// Keys and values.
    pub metadata: Vec<(String, Value)>,
    /// Tensors in their order.
    pub tensors: Vec<RawTensor>,
}

impl RawSidecar {
    /// The golden sidecar as it is.
    pub fn golden() -> Self {
        let file = Gguf::open(golden()).unwrap();
        let metadata = file.metadata().iter();
        Self {
            metadata: metadata.map(|(k, v)| (k.to_owned(), v.clone())).collect(),
            tensors: file
                .iter()
                .map(|tensor| RawTensor {
                    name: tensor.info.name.clone(),
                    ty: tensor.info.ty,
                    dims: tensor.info.dims.clone(),
                    bytes: tensor.bytes.to_vec(),
                })
                .collect(),
        }
    }

    /// Replaces the value of a key that is there.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let entry = self.metadata.iter_mut().find(|(k, _)| k == key);
        entry.unwrap_or_else(|| panic!("no key {key}")).1 = value.into();
        self
    }

    /// Replaces bytes of a tensor that is there.
    pub fn patch(mut self, tensor: &str, offset: usize, bytes: &[u8]) -> Self {
        let found = self.tensors.iter_mut().find(|t| t.name == tensor);
        let found = found.unwrap_or_else(|| panic!("no tensor {tensor}"));
        found.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Writes it without any check of the sidecar's rules.
    pub fn write(self, path: &Path) {
        let mut metadata = Metadata::new();
        for (key, value) in self.metadata {
            metadata.insert(key, value).unwrap();
        }
        let mut writer = GgufWriter::new(metadata).unwrap();
        for tensor in self.tensors {
            writer
                .add_tensor(tensor.name, tensor.ty, &tensor.dims, tensor.bytes)
                .unwrap();
        }
        writer.write(path).unwrap();
    }
}
