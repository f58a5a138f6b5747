//! Files of other programs as named arrays: safetensors, PyTorch's zip files, npy and npz.
//! Tensors are read one by one, so that a whole model's checkpoint costs no more than its edit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use jola_edit::FileError;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use zip::ZipArchive;

use super::array::{elements, floats, gather, Array};
use super::element::ElementType;
use super::error::{ImportError, ImportErrorKind};
use super::npy;
use super::pickle::{self, TensorRef, MAX_PICKLE};

type Archive = ZipArchive<Cursor<Mmap>>;

/// One open file.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: OpenFile,
}

/// A file by its format, with what is kept of it to read its tensors.
#[derive(Debug)]
enum OpenFile {
    Safetensors(Mmap),
    Torch {
        archive: RefCell<Archive>,
        /// Name of the archive's only folder, with a slash.
        prefix: String,
        tensors: BTreeMap<String, Rc<TensorRef>>,
    },
    /// One array without a name, or several.
    Numpy(BTreeMap<String, Array>),
}

impl Source {
    /// Opens a file; its type is told by its first bytes.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let file = open(path).map_err(|kind| FileError::new(path, kind))?;
        Ok(Self {
            path: path.into(),
            file,
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a NumPy file.
    pub fn is_numpy(&self) -> bool {
        matches!(self.file, OpenFile::Numpy(_))
    }

    /// An error about this file.
    pub fn error(&self, kind: ImportErrorKind) -> ImportError {
        FileError::new(&self.path, kind)
    }

    /// The names of all tensors, sorted.
    ///
    /// # Errors
    /// A safetensors file that breaks its format.
    pub fn names(&self) -> Result<Vec<String>, ImportError> {
        let mut names: Vec<String> = match &self.file {
            OpenFile::Safetensors(map) => {
                let file = SafeTensors::deserialize(map);
                let file = file.map_err(|e| self.error(ImportErrorKind::Safetensors(e)))?;
                file.names()
                    .into_iter()
                    .map(|name| name.to_string())
                    .collect()
            }
            OpenFile::Torch { tensors, .. } => tensors.keys().cloned().collect(),
            OpenFile::Numpy(arrays) => arrays.keys().cloned().collect(),
        };
        names.sort();
        Ok(names)
    }

    /// A tensor by name.
    ///
    /// # Errors
    /// What is wrong with it; [`ImportErrorKind::MissingEntry`] if there is none.
    pub fn read(&self, name: &str) -> Result<Array, ImportError> {
        self.read_kind(name).map_err(|kind| self.error(kind))
    }

    fn read_kind(&self, name: &str) -> Result<Array, ImportErrorKind> {
        let missing = || ImportErrorKind::MissingEntry {
            entry: name.to_owned(),
        };
        match &self.file {
            OpenFile::Safetensors(map) => {
                let file = SafeTensors::deserialize(map).map_err(ImportErrorKind::Safetensors)?;
                let view = file.tensor(name).map_err(ImportErrorKind::Safetensors)?;
                let element = match view.dtype() {
                    Dtype::F64 => ElementType::F64,
                    Dtype::F32 => ElementType::F32,
                    Dtype::F16 => ElementType::F16,
                    Dtype::BF16 => ElementType::Bf16,
                    _ => ElementType::Other("not a float of 16, 32 or 64 bits"),
                };
                let shape: Vec<u64> = view.shape().iter().map(|dim| *dim as u64).collect();
                elements(name, &shape)?;
                let values = floats(name, element, view.data())?;
                Ok(Array { shape, values })
            }
            OpenFile::Torch {
                archive,
                prefix,
                tensors,
            } => {
                let tensor = tensors.get(name).ok_or_else(missing)?;
                let entry = format!("{prefix}data/{}", tensor.storage);
                read_tensor(&mut archive.borrow_mut(), &entry, name, tensor)
            }
            OpenFile::Numpy(arrays) => arrays.get(name).cloned().ok_or_else(missing),
        }
    }
}

fn open(path: &Path) -> Result<OpenFile, ImportErrorKind> {
    let file = File::open(path).map_err(ImportErrorKind::io("open it"))?;
    // SAFETY: the map is private to this value and only read; a change of the file by someone
    // else meanwhile is outside of what a reader can prevent.
    let map = unsafe { Mmap::map(&file) }.map_err(ImportErrorKind::io("memory-map it"))?;
    if map.starts_with(b"PK\x03\x04") {
        return open_archive(map);
    }
    if map.starts_with(npy::MAGIC) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let array = npy::read(&name, &map)?;
        return Ok(OpenFile::Numpy(BTreeMap::from([(
            name.into_owned(),
            array,
        )])));
    }
    // The size of a JSON object, then the object.
    if map.get(8) == Some(&b'{') {
        SafeTensors::deserialize(&map).map_err(ImportErrorKind::Safetensors)?;
        return Ok(OpenFile::Safetensors(map));
    }
    // A pickle of torch's magic number 0x1950a86a20f9469cfc6c.
    if map
        .get(2..)
        .is_some_and(|rest| rest.starts_with(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20"))
    {
        return Err(ImportErrorKind::Legacy);
    }
    let first = &map[..map.len().min(8)];
    Err(ImportErrorKind::FileType {
        found: first.escape_ascii().to_string(),
    })
}

/// A PyTorch file or an npz file.
fn open_archive(map: Mmap) -> Result<OpenFile, ImportErrorKind> {
    let mut archive = ZipArchive::new(Cursor::new(map)).map_err(ImportErrorKind::Zip)?;
    let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
    let pickle = names.iter().find(|name| {
        name.split_once('/')
            .is_some_and(|(_, rest)| rest == "data.pkl")
    });
    if let Some(entry) = pickle {
        let prefix = entry.trim_end_matches("data.pkl").to_owned();
        let order = format!("{prefix}byteorder");
        if names.contains(&order) && read_entry(&mut archive, &order, 16)?.trim_ascii() != b"little"
        {
            return Err(ImportErrorKind::BigEndian);
        }
        let bytes = read_entry(&mut archive, entry, MAX_PICKLE as u64)?;
        let tensors = pickle::read(&bytes)?.tensors().into_iter().collect();
        return Ok(OpenFile::Torch {
            archive: RefCell::new(archive),
            prefix,
            tensors,
        });
    }
    let mut arrays = BTreeMap::new();
    for entry in &names {
        let Some(name) = entry.strip_suffix(".npy") else {
            continue;
        };
        let bytes = read_entry(&mut archive, entry, 8 * super::array::MAX_VALUES)?;
        arrays.insert(name.to_owned(), npy::read(name, &bytes)?);
    }
    if arrays.is_empty() {
        return Err(ImportErrorKind::MissingEntry {
            entry: "data.pkl".to_owned(),
        });
    }
    Ok(OpenFile::Numpy(arrays))
}

/// The contents of a file in an archive, at most `limit` bytes of them.
fn read_entry(archive: &mut Archive, entry: &str, limit: u64) -> Result<Vec<u8>, ImportErrorKind> {
    let file = archive.by_name(entry).map_err(|error| match error {
        zip::result::ZipError::FileNotFound => ImportErrorKind::MissingEntry {
            entry: entry.to_owned(),
        },
        error => ImportErrorKind::Zip(error),
    })?;
    let mut bytes = Vec::new();
    let read = file.take(limit).read_to_end(&mut bytes);
    read.map_err(ImportErrorKind::io("unpack it"))?;
    Ok(bytes)
}

/// A tensor of a PyTorch file, with its strides resolved.
fn read_tensor(
    archive: &mut Archive,
    entry: &str,
    name: &str,
    tensor: &TensorRef,
) -> Result<Array, ImportErrorKind> {
    let size = tensor.element.size() as u64;
    let count = elements(name, &tensor.shape)?;
    let too_large = || ImportErrorKind::TooLarge {
        tensor: name.to_owned(),
        shape: tensor.shape.clone(),
        limit: super::array::MAX_VALUES,
    };
    if tensor.stride.len() != tensor.shape.len() {
        return Err(too_large());
    }
    // One past the last element that the strides reach.
    let steps = tensor.shape.iter().zip(&tensor.stride);
    let end = match count {
        0 => Some(0),
        _ => steps
            .clone()
            .try_fold(tensor.offset, |end, (dim, stride)| {
                end.checked_add((dim - 1).checked_mul(*stride)?)
            })
            .and_then(|last| last.checked_add(1)),
    };
    let needed = end
        .and_then(|end| end.checked_mul(size))
        .ok_or_else(too_large)?;
    if needed > size * super::array::MAX_VALUES {
        return Err(too_large());
    }
    let bytes = read_entry(archive, entry, needed)?;
    if (bytes.len() as u64) < needed {
        return Err(ImportErrorKind::Truncated {
            tensor: name.to_owned(),
            storage: entry.to_owned(),
            needed,
            found: bytes.len() as u64,
        });
    }
    let stored = floats(name, tensor.element, &bytes)?;
    Ok(Array {
        shape: tensor.shape.clone(),
        values: gather(&stored, tensor.offset, &tensor.shape, &tensor.stride),
    })
}
