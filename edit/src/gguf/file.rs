//! An open GGUF file: its metadata, its tensor table and slices of its tensor data.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{reader, role, types, GgmlType, GgufError, GgufErrorKind, Metadata};
use super::{MAX_DIMS, MAX_TENSOR_NAME_LEN};
use crate::bytes::Bytes;

/// A GGUF file, checked in full when it is opened; tensor data stay on disk until touched.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    header: reader::Header,
}

/// One row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, which no other tensor of the file has.
    pub name: String,
    /// Dimensions in GGUF order, the fastest first; trailing ones have no meaning in ggml.
    pub dims: Vec<u64>,
    /// The ggml type id as stored, see [`GgmlType::from_id`].
    pub ty: u32,
    /// First byte, counted from the start of the data section.
    pub offset: u64,
    /// Length in bytes, from dimensions and type.
    pub len: u64,
}

/// A tensor of an open file with its data.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its row of the tensor table.
    pub info: &'a TensorInfo,
    /// Its data, `info.len` bytes, little-endian.
    pub bytes: &'a [u8],
}

impl Gguf {
    /// Memory-maps and checks a file.
    ///
    /// The file must not be changed while it is open: on most systems shortening a mapped
    /// file kills the process that reads it.
    ///
    /// # Errors
    /// Any [`GgufErrorKind`] except `DataLength`, with the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref();
        let map = || {
            role::refuse_folder(path)?;
            let file = File::open(path).map_err(GgufErrorKind::io("open it"))?;
            // SAFETY: the map is private to this value and only read. A change of the file by
            // someone else meanwhile is outside of what a reader can prevent; the
            // documentation says so.
            unsafe { Mmap::map(&file) }.map_err(GgufErrorKind::io("memory-map it"))
        };
        let map = map().map_err(|kind| GgufError::new(path, kind))?;
        Self::new(path, Bytes::Mapped(map))
    }

    /// Checks a file that is already in memory; errors name it `<memory>`.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, GgufError> {
        Self::new(Path::new("<memory>"), Bytes::Owned(bytes.into()))
    }

    fn new(path: &Path, bytes: Bytes) -> Result<Self, GgufError> {
        let header = reader::read(&bytes).map_err(|kind| GgufError::new(path, kind))?;
        Ok(Self {
            path: path.to_path_buf(),
            bytes,
            header,
        })
    }

    /// The path it was opened with, or `<memory>`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// GGUF version of the file, 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Alignment of tensor data in bytes, a power of two.
    pub fn alignment(&self) -> u32 {
        self.header.alignment
    }

    /// The metadata in file order.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// The tensor table in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let index = *self.header.by_name.get(name)?;
        Some(self.with_data(self.header.tensors.get(index)?))
    }

    /// All tensors with their data, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.tensors().iter().map(|info| self.with_data(info))
    }

    /// Lets go of the memory of what has been read, where the file is mapped.
    pub fn forget(&self) {
        self.bytes.forget();
    }

    /// Bytes of the file after the last tensor and its padding: 0 in every well-formed file,
    /// tolerated here as llama.cpp does.
    pub fn trailing_bytes(&self) -> u64 {
        self.header.trailing_bytes
    }

    /// An error about this file.
    pub fn error(&self, kind: GgufErrorKind) -> GgufError {
        GgufError::new(&self.path, kind)
    }

    fn with_data<'a>(&'a self, info: &'a TensorInfo) -> Tensor<'a> {
        // In bounds: `reader::read` compared the end of every tensor with the file's length.
        let Range { start, end } = self.header.range(info);
        Tensor {
            info,
            bytes: &self.bytes[start..end],
        }
    }
}

impl TensorInfo {
    /// A row with the length that `dims` and `ty` give, at offset 0.
    ///
    /// # Errors
    /// `Limit` (name length, number of dimensions), `TensorType`, `RowLength`, `TensorSize`.
    pub(super) fn new(name: String, ty: u32, dims: Vec<u64>) -> Result<Self, GgufErrorKind> {
        GgufErrorKind::check_limit(
            format_args!("length of tensor name `{name}`"),
            name.len() as u64,
            MAX_TENSOR_NAME_LEN,
        )?;
        GgufErrorKind::check_limit(
            format_args!("number of dimensions of tensor `{name}`"),
            dims.len() as u64,
            MAX_DIMS,
        )?;
        let Some(layout) = GgmlType::from_id(ty) else {
            return Err(GgufErrorKind::TensorType {
                tensor: name,
                id: ty,
            });
        };
        let row = dims.first().copied().unwrap_or(1);
        if row % layout.block != 0 {
            return Err(GgufErrorKind::RowLength {
                tensor: name,
                ty: layout.name,
                row,
                block: layout.block,
            });
        }
        let Some(len) = byte_len(&dims, layout) else {
            return Err(GgufErrorKind::TensorSize { tensor: name, dims });
        };
        Ok(Self {
            name,
            dims,
            ty,
            offset: 0,
            len,
        })
    }

    /// ggml's name of the type, for messages.
    pub fn type_name(&self) -> &'static str {
        GgmlType::from_id(self.ty).map_or("unknown", |ty| ty.name)
    }

    /// Number of values: the product of the dimensions.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// The dimensions as ggml sees them: four, with 1 for those not stored.
    pub fn padded_dims(&self) -> [u64; 4] {
        let mut padded = [1; 4];
        for (dim, &stored) in padded.iter_mut().zip(&self.dims) {
            *dim = stored;
        }
        padded
    }
}

/// Bytes of a tensor, `None` if its values or bytes exceed `i64::MAX`, as ggml counts in `i64`.
/// A dimension of 0 does not excuse the others.
fn byte_len(dims: &[u64], layout: &GgmlType) -> Option<u64> {
    let limit = i64::MAX as u64;
    dims.iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim.max(1)))
        .filter(|&product| product <= limit)?;
    let elements: u64 = dims.iter().product();
    (elements / layout.block)
        .checked_mul(layout.bytes)
        .filter(|&len| len <= limit)
}

impl Tensor<'_> {
    /// The values of an F32 tensor, `None` for other types.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        (self.info.ty == types::F32).then(|| reader::decode(self.bytes, f32::from_le_bytes))
    }

    /// The values of an I32 tensor, `None` for other types.
    pub fn to_i32s(&self) -> Option<Vec<i32>> {
        (self.info.ty == types::I32).then(|| reader::decode(self.bytes, i32::from_le_bytes))
    }
}
