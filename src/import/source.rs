//! Files of other programs as named arrays: safetensors, PyTorch's zip files, npy and npz.
//! Tensors are read one by one, so that a whole model's checkpoint costs no more than its edit, and
//! no file asks for more memory than one array may have.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use jola_edit::FileError;
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};

use super::archive::Archive;
use super::array::{elements, floats, gather, Array, MAX_VALUES};
use super::bytes::Bytes;
use super::element::ElementType;
use super::error::{ImportError, ImportErrorKind};
use super::npy::{self, MAX_NPY};
use super::pickle::{self, TensorRef, MAX_PICKLE};

/// One open file.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: OpenFile,
}

/// A file by its format, with what is kept of it to read its tensors.
#[derive(Debug)]
enum OpenFile {
    Safetensors {
        bytes: Bytes,
        header: Metadata,
        /// Where the tensors' data begin.
        data: usize,
    },
    Torch {
        archive: Archive,
        /// Name of the archive's only folder, with a slash.
        prefix: String,
        tensors: BTreeMap<String, Rc<TensorRef>>,
    },
    Npy {
        name: String,
        bytes: Bytes,
    },
    Npz(Archive),
}

/// What the name of every array in an npz file ends with.
const NPY: &str = ".npy";

impl Source {
    /// Opens a file; its type is told by its first bytes.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let map = || {
            let file = File::open(path).map_err(ImportErrorKind::io("open it"))?;
            // SAFETY: the map is private to this value and only read; a change of the file by
            // someone else meanwhile is outside of what a reader can prevent.
            unsafe { Mmap::map(&file) }.map_err(ImportErrorKind::io("memory-map it"))
        };
        let map = map().map_err(|kind| FileError::new(path, kind))?;
        Self::new(path, Bytes::Mapped(map))
    }

    /// As [`Self::open`], of a file that is already in memory; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn parse(path: &Path, bytes: impl Into<Vec<u8>>) -> Result<Self, ImportError> {
        Self::new(path, Bytes::Owned(bytes.into()))
    }

    fn new(path: &Path, bytes: Bytes) -> Result<Self, ImportError> {
        let file = open(path, bytes).map_err(|kind| FileError::new(path, kind))?;
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
        matches!(self.file, OpenFile::Npy { .. } | OpenFile::Npz(_))
    }

    /// An error about this file.
    pub fn error(&self, kind: ImportErrorKind) -> ImportError {
        FileError::new(&self.path, kind)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.file {
            OpenFile::Safetensors { header, .. } => header.tensors().into_keys().collect(),
            OpenFile::Torch { tensors, .. } => tensors.keys().cloned().collect(),
            OpenFile::Npy { name, .. } => vec![name.clone()],
            OpenFile::Npz(archive) => {
                let entries = archive.names();
                let names = entries.iter().filter_map(|entry| entry.strip_suffix(NPY));
                names.map(str::to_owned).collect()
            }
        };
        names.sort();
        names
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
            OpenFile::Safetensors {
                bytes,
                header,
                data,
            } => {
                let info = header.info(name).ok_or_else(missing)?;
                let element = match info.dtype {
                    Dtype::F64 => ElementType::F64,
                    Dtype::F32 => ElementType::F32,
                    Dtype::F16 => ElementType::F16,
                    Dtype::BF16 => ElementType::Bf16,
                    _ => ElementType::Other("not a float of 16, 32 or 64 bits"),
                };
                let shape: Vec<u64> = info.shape.iter().map(|dim| *dim as u64).collect();
                elements(name, &shape)?;
                // In bounds: the header was compared with the file's length.
                let (start, end) = info.data_offsets;
                let values = floats(name, element, &bytes[data + start..data + end])?;
                Ok(Array { shape, values })
            }
            OpenFile::Torch {
                archive,
                prefix,
                tensors,
            } => {
                let tensor = tensors.get(name).ok_or_else(missing)?;
                let entry = format!("{prefix}data/{}", tensor.storage);
                read_tensor(archive, &entry, name, tensor)
            }
            OpenFile::Npy { name: only, bytes } if name == only => npy::read(name, bytes),
            OpenFile::Npy { .. } => Err(missing()),
            OpenFile::Npz(archive) => {
                let bytes = archive.whole(&format!("{name}{NPY}"), MAX_NPY)?;
                npy::read(name, &bytes)
            }
        }
    }
}

fn open(path: &Path, bytes: Bytes) -> Result<OpenFile, ImportErrorKind> {
    if bytes.starts_with(b"PK\x03\x04") {
        return open_archive(Archive::new(bytes)?);
    }
    if bytes.starts_with(npy::MAGIC) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Ok(OpenFile::Npy {
            name: name.into_owned(),
            bytes,
        });
    }
    // The size of a JSON object, then the object.
    if bytes.get(8) == Some(&b'{') {
        let header = SafeTensors::read_metadata(&bytes);
        let (len, header) = header.map_err(ImportErrorKind::Safetensors)?;
        return Ok(OpenFile::Safetensors {
            bytes,
            header,
            data: size_of::<u64>() + len,
        });
    }
    // A pickle of torch's magic number 0x1950a86a20f9469cfc6c.
    if bytes
        .get(2..)
        .is_some_and(|rest| rest.starts_with(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20"))
    {
        return Err(ImportErrorKind::Legacy);
    }
    let first = &bytes[..bytes.len().min(8)];
    Err(ImportErrorKind::FileType {
        found: first.escape_ascii().to_string(),
    })
}

/// A PyTorch file or an npz file.
fn open_archive(archive: Archive) -> Result<OpenFile, ImportErrorKind> {
    let names = archive.names();
    let pickle = names.iter().find(|name| {
        name.split_once('/')
            .is_some_and(|(_, rest)| rest == "data.pkl")
    });
    if let Some(entry) = pickle {
        let prefix = entry.trim_end_matches("data.pkl").to_owned();
        let order = format!("{prefix}byteorder");
        if names.contains(&order) && archive.start(&order, 16)?.trim_ascii() != b"little" {
            return Err(ImportErrorKind::BigEndian);
        }
        let bytes = archive.whole(entry, MAX_PICKLE as u64)?;
        let tensors = pickle::read(&bytes)?.tensors()?.into_iter().collect();
        return Ok(OpenFile::Torch {
            archive,
            prefix,
            tensors,
        });
    }
    if names.iter().any(|name| name.ends_with(NPY)) {
        return Ok(OpenFile::Npz(archive));
    }
    Err(ImportErrorKind::MissingEntry {
        entry: "data.pkl".to_owned(),
    })
}

/// A tensor of a PyTorch file, with its strides resolved.
fn read_tensor(
    archive: &Archive,
    entry: &str,
    name: &str,
    tensor: &TensorRef,
) -> Result<Array, ImportErrorKind> {
    let size = tensor.element.size() as u64;
    let count = elements(name, &tensor.shape)?;
    let too_large = || ImportErrorKind::TooLarge {
        tensor: name.to_owned(),
        shape: tensor.shape.clone(),
        limit: MAX_VALUES,
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
    let end = end.filter(|end| *end <= MAX_VALUES).ok_or_else(too_large)?;
    // With strides of 0 a few stored values stand for any number of them.
    if count > end {
        return Err(ImportErrorKind::Repeated {
            tensor: name.to_owned(),
            shape: tensor.shape.clone(),
            stored: end,
        });
    }
    let needed = end * size;
    let bytes = archive.start(entry, needed)?;
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

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::write::SimpleFileOptions;
    use zip::ZipWriter;

    use super::*;

    /// An archive of these entries.
    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// A file of one tensor `x` of 32-bit floats, over a storage of four.
    fn torch(shape: &[u32], stride: &[u32]) -> Source {
        let mut pickle = b"}\x8c\x01xctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
        pickle.extend(b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x010tQK\0".as_slice());
        for sizes in [shape, stride] {
            pickle.push(b'(');
            for size in sizes {
                pickle.push(b'J');
                pickle.extend(size.to_le_bytes());
            }
            pickle.push(b't');
        }
        pickle.extend(b"tRs.".as_slice());
        let stored: Vec<u8> = [1f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
        let bytes = archive(&[("a/data.pkl", &pickle), ("a/data/0", &stored)]);
        Source::parse(Path::new("a.pt"), bytes).unwrap()
    }

    #[test]
    fn strides_show_what_is_stored_and_no_more() {
        let array = torch(&[2, 2], &[1, 2]).read("x").unwrap();
        assert_eq!(array.values, [1.0, 3.0, 2.0, 4.0]);
        let refused =
            |shape: &[u32], stride: &[u32]| torch(shape, stride).read("x").unwrap_err().to_string();
        assert_eq!(
            refused(&[1 << 24], &[0]),
            "a.pt: tensor `x` of shape [16777216] repeats 1 stored values: save a copy of it"
        );
        let text = refused(&[(1 << 24) + 1], &[0]);
        assert!(text.contains("more than 16777216 values"), "{text}");
        let text = refused(&[2], &[1 << 24]);
        assert!(text.contains("more than 16777216 values"), "{text}");
        let text = refused(&[2, 3], &[3, 1]);
        assert!(
            text.contains("needs 24 bytes of `a/data/0`, which has 16"),
            "{text}"
        );
        assert!(torch(&[3, 0], &[1, 1]).read("x").unwrap().values.is_empty());
    }

    #[test]
    fn arrays_of_an_archive_are_read_one_by_one() {
        let npy = |header: &str| {
            let mut bytes = b"\x93NUMPY\x01\0".to_vec();
            bytes.extend((header.len() as u16).to_le_bytes());
            bytes.extend(header.as_bytes());
            bytes.extend(2.5f32.to_le_bytes());
            bytes
        };
        let good = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }");
        let bad = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999,), }");
        let bytes = archive(&[("good.npy", &good), ("bad.npy", &bad), ("readme", b"")]);
        let source = Source::parse(Path::new("a.npz"), bytes).unwrap();
        assert_eq!(source.names(), ["bad", "good"]);
        assert_eq!(source.read("good").unwrap().values, [2.5]);
        let text = source.read("bad").unwrap_err().to_string();
        assert!(text.contains("more than 16777216 values"), "{text}");
        let text = source.read("readme").unwrap_err().to_string();
        assert!(text.contains("the archive has no `readme.npy`"), "{text}");
    }
}
