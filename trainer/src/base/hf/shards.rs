//! The safetensors files of the directory, memory-mapped and checked against their headers.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use jola_edit::gguf::{BF16, F16, F32};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::Value;

use super::json::Object;
use crate::error::{HfError, HfErrorKind};

/// The only file, where the weights are not split.
const SINGLE: &str = "model.safetensors";
/// Which tensor is in which file, where they are.
const INDEX: &str = "model.safetensors.index.json";

/// One memory-mapped file.
#[derive(Debug)]
pub(crate) struct Shard {
    /// The file.
    pub path: PathBuf,
    map: Mmap,
    /// The tensors in it, by name.
    pub tensors: BTreeMap<String, Stored>,
}

/// Where a tensor stands in its file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// ggml's id of the number format.
    pub ggml_type: u32,
    /// Dimensions, the slowest first.
    pub shape: Vec<usize>,
    range: Range<usize>,
}

impl Shard {
    /// The stored numbers of a tensor.
    pub fn bytes(&self, stored: &Stored) -> &[u8] {
        // In bounds: the header was checked against the file's length.
        &self.map[stored.range.clone()]
    }

    /// Maps and checks a file. It must not change while it is open.
    fn open(path: PathBuf) -> Result<Shard, HfError> {
        let fail = |kind: HfErrorKind| HfError::new(&path, kind);
        let map = || {
            let file = File::open(&path)?;
            // SAFETY: the map is private to this value and only read. A change of the file
            // by someone else meanwhile is outside of what a reader can prevent; the
            // documentation says so.
            unsafe { Mmap::map(&file) }
        };
        let map = map().map_err(|source| {
            let action = "open it";
            fail(HfErrorKind::Io { action, source })
        })?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| match error {
            SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
                let found = map.len() as u64;
                match expected_length(&map) {
                    Some(expected) => fail(HfErrorKind::Length { expected, found }),
                    None => fail(error.into()),
                }
            }
            other => fail(other.into()),
        })?;
        let start = size_of::<u64>() + header;
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let Some(ggml_type) = ggml_type(info.dtype) else {
                let found = info.dtype;
                let reason = format!("is stored as {found:?}, expected F32, F16 or BF16");
                return Err(fail(HfErrorKind::Tensor { name, reason }));
            };
            let (first, last) = info.data_offsets;
            let stored = Stored {
                ggml_type,
                shape: info.shape.clone(),
                range: start + first..start + last,
            };
            tensors.insert(name, stored);
        }
        Ok(Shard { path, map, tensors })
    }
}

fn ggml_type(dtype: Dtype) -> Option<u32> {
    match dtype {
        Dtype::F32 => Some(F32),
        Dtype::F16 => Some(F16),
        Dtype::BF16 => Some(BF16),
        _ => None,
    }
}

/// How long the file should be: by its tensors' offsets where the header is whole, at least
/// the header where it is not.
fn expected_length(file: &[u8]) -> Option<u64> {
    let header = u64::from_le_bytes(file.get(..8)?.try_into().ok()?);
    let start = header.checked_add(8)?;
    let Some(text) = file.get(8..usize::try_from(start).ok()?) else {
        return Some(start);
    };
    let tensors: HashMap<String, Value> = serde_json::from_slice(text).ok()?;
    let end = |tensor: &Value| tensor["data_offsets"][1].as_u64();
    start.checked_add(tensors.values().filter_map(end).max()?)
}

/// Opens all files of weights in `folder`.
pub(crate) fn open(folder: &Path) -> Result<Vec<Shard>, HfError> {
    if folder.join(SINGLE).is_file() {
        return Ok(vec![Shard::open(folder.join(SINGLE))?]);
    }
    let Some(index) = Object::read_optional(&folder.join(INDEX))? else {
        let what = format!("neither {SINGLE} nor {INDEX} is there");
        return Err(HfError::new(folder, HfErrorKind::Weights { what }));
    };
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let map = index.object("weight_map")?;
    for (tensor, shard) in map.iter() {
        match shard.as_str() {
            Some(shard) if is_file_name(shard) => wanted.entry(shard).or_default().push(tensor),
            _ => return Err(map.bad(tensor, "the name of a file beside the index")),
        }
    }
    let missing = wanted
        .iter()
        .find(|(shard, _)| !folder.join(shard).is_file());
    if let Some((shard, tensors)) = missing {
        return Err(index.error(HfErrorKind::ShardMissing {
            shard: (*shard).to_owned(),
            tensors: tensors.len(),
            first: tensors[0].to_owned(),
        }));
    }
    let open = |(shard, tensors): (&str, Vec<&str>)| {
        let shard = Shard::open(folder.join(shard))?;
        match tensors
            .iter()
            .find(|name| !shard.tensors.contains_key(**name))
        {
            None => Ok(shard),
            Some(name) => {
                let (name, reason) = ((*name).to_owned(), "is missing, though the index names it");
                let reason = reason.to_owned();
                Err(HfError::new(
                    &shard.path,
                    HfErrorKind::Tensor { name, reason },
                ))
            }
        }
    };
    wanted.into_iter().map(open).collect()
}

/// Whether `name` is a plain file name, not a path that leads elsewhere.
fn is_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_cannot_lead_elsewhere() {
        assert!(is_file_name("model-00001-of-00002.safetensors"));
        for path in ["", "..", ".", "../x", "a/b", "/etc/passwd"] {
            assert!(!is_file_name(path), "{path}");
        }
    }
}
