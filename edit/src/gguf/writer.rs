//! Writing GGUF version 3: the same input gives the same bytes, tensor data are streamed, and
//! the target is replaced only by a complete file.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use super::reader::alignment_of;
use super::{align_up, Array, GgufError, GgufErrorKind, Metadata, TensorInfo, Value};
use super::{MAGIC, MAX_ARRAY_LEN, MAX_METADATA, MAX_STRING_LEN, MAX_TENSORS, VERSION};
use crate::output::Output;

/// Collects metadata and tensors, then writes one file.
///
/// Alignment is 32, or what the metadata say under `general.alignment`.
#[derive(Debug)]
pub struct GgufWriter<'a> {
    metadata: Metadata,
    tensors: Vec<(TensorInfo, TensorData<'a>)>,
    alignment: u32,
    data_len: u64,
}

/// Where a tensor's bytes come from when they are written.
pub enum TensorData<'a> {
    /// Bytes in memory that the caller keeps.
    Bytes(&'a [u8]),
    /// Bytes in memory that the writer keeps.
    Owned(Vec<u8>),
    /// A function that writes exactly the tensor's bytes, so that a large model never is in
    /// memory as a whole.
    Stream(Box<StreamFn<'a>>),
}

/// The function of [`TensorData::Stream`].
pub type StreamFn<'a> = dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a;

impl<'a> TensorData<'a> {
    /// Data that `write` produces when their turn comes.
    pub fn stream(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + 'a) -> Self {
        Self::Stream(Box::new(write))
    }
}

impl fmt::Debug for TensorData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Owned(bytes) => write!(f, "Owned({})", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl<'a> From<&'a [u8]> for TensorData<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for TensorData<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl<'a> GgufWriter<'a> {
    /// Begins a file with these metadata, written in their order.
    ///
    /// # Errors
    /// [`Limit`](GgufErrorKind::Limit) for what the reader would refuse, and as the reader for
    /// `general.alignment`.
    pub fn new(metadata: Metadata) -> Result<Self, GgufErrorKind> {
        GgufErrorKind::check_limit(
            format_args!("number of metadata entries"),
            metadata.len() as u64,
            MAX_METADATA,
        )?;
        for (key, value) in metadata.iter() {
            check_value(key, value)?;
        }
        Ok(Self {
            alignment: alignment_of(&metadata)?,
            metadata,
            tensors: Vec::new(),
            data_len: 0,
        })
    }

    /// Adds a tensor of ggml type `ty` with dimensions in GGUF order, the fastest first.
    ///
    /// # Errors
    /// `DuplicateTensor`, `Limit`, `TensorType`, `RowLength`, `TensorSize`, and `DataLength`
    /// if data in memory are longer or shorter than the shape says.
    pub fn add_tensor(
        &mut self,
        name: impl Into<String>,
        ty: u32,
        dims: &[u64],
        data: impl Into<TensorData<'a>>,
    ) -> Result<(), GgufErrorKind> {
        let (name, data) = (name.into(), data.into());
        if self.tensors.iter().any(|(info, _)| info.name == name) {
            return Err(GgufErrorKind::DuplicateTensor { tensor: name });
        }
        GgufErrorKind::check_limit(
            format_args!("number of tensors"),
            self.tensors.len() as u64 + 1,
            MAX_TENSORS,
        )?;
        let mut info = TensorInfo::new(name, ty, dims.to_vec())?;
        match &data {
            TensorData::Bytes(bytes) => check_data_len(&info, bytes.len() as u64)?,
            TensorData::Owned(bytes) => check_data_len(&info, bytes.len() as u64)?,
            TensorData::Stream(_) => {}
        }
        info.offset = self.data_len;
        let end = info.offset.checked_add(info.len);
        let Some(end) = end.and_then(|end| align_up(end, self.alignment)) else {
            return Err(GgufErrorKind::TensorSize {
                tensor: info.name,
                dims: info.dims,
            });
        };
        self.data_len = end;
        self.tensors.push((info, data));
        Ok(())
    }

    /// Writes to `path`, which is created or replaced by a complete file.
    ///
    /// # Errors
    /// As [`Output::without_inputs`] and [`GgufWriter::write_output`].
    pub fn write(self, path: impl AsRef<Path>) -> Result<(), GgufError> {
        let path = path.as_ref();
        let output = Output::without_inputs(path);
        self.write_output(&output.map_err(|error| GgufError::new(path, *error.kind))?)
    }

    /// Writes to an output that was found writable before. On an error it is as it was.
    ///
    /// # Errors
    /// `Output`, and `DataLength` if a stream wrote another number of bytes than its tensor has.
    pub fn write_output(self, output: &Output) -> Result<(), GgufError> {
        let write = || {
            let mut file = output.begin().map_err(|error| *error.kind)?;
            self.write_to(&mut file)?;
            Ok(file.commit().map_err(|error| *error.kind)?)
        };
        write().map_err(|kind: GgufErrorKind| GgufError::new(output.path(), kind))
    }

    /// Writes to any stream.
    ///
    /// # Errors
    /// As [`GgufWriter::write`].
    pub fn write_to(self, out: impl Write) -> Result<(), GgufErrorKind> {
        let mut out = Counted { out, written: 0 };
        self.write_header(&mut out)
            .map_err(GgufErrorKind::io("write it"))?;
        for (info, data) in self.tensors {
            let start = out.written;
            match data {
                TensorData::Bytes(bytes) => out.write_all(bytes),
                TensorData::Owned(bytes) => out.write_all(&bytes),
                TensorData::Stream(write) => write(&mut out),
            }
            .map_err(GgufErrorKind::io("write tensor data"))?;
            check_data_len(&info, out.written - start)?;
            out.pad(self.alignment)
                .map_err(GgufErrorKind::io("write it"))?;
        }
        out.flush().map_err(GgufErrorKind::io("write it"))
    }

    /// Everything before the tensor data, padded.
    fn write_header(&self, out: &mut Counted<impl Write>) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(self.tensors.len() as u64).to_le_bytes())?;
        out.write_all(&(self.metadata.len() as u64).to_le_bytes())?;
        for (key, value) in self.metadata.iter() {
            write_sized(out, key.as_bytes())?;
            out.write_all(&value.type_id().to_le_bytes())?;
            write_value(out, value)?;
        }
        for (info, _) in &self.tensors {
            write_sized(out, info.name.as_bytes())?;
            out.write_all(&(info.dims.len() as u32).to_le_bytes())?;
            for dim in &info.dims {
                out.write_all(&dim.to_le_bytes())?;
            }
            out.write_all(&info.ty.to_le_bytes())?;
            out.write_all(&info.offset.to_le_bytes())?;
        }
        out.pad(self.alignment)
    }
}

fn check_data_len(info: &TensorInfo, found: u64) -> Result<(), GgufErrorKind> {
    if found == info.len {
        return Ok(());
    }
    Err(GgufErrorKind::DataLength {
        tensor: info.name.clone(),
        expected: info.len,
        found,
    })
}

fn check_value(key: &str, value: &Value) -> Result<(), GgufErrorKind> {
    let check_string = |len: usize| {
        GgufErrorKind::check_limit(
            format_args!("length of value of `{key}`"),
            len as u64,
            MAX_STRING_LEN,
        )
    };
    match value {
        Value::String(text) => check_string(text.len()),
        Value::Array(array) => {
            GgufErrorKind::check_limit(
                format_args!("array length of `{key}`"),
                array.len() as u64,
                MAX_ARRAY_LEN,
            )?;
            match array {
                Array::String(texts) => texts.iter().try_for_each(|text| check_string(text.len())),
                Array::Bytes(texts) => texts.iter().try_for_each(|text| check_string(text.len())),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn write_sized(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)
}

fn write_value(out: &mut impl Write, value: &Value) -> io::Result<()> {
    match value {
        Value::U8(v) => out.write_all(&v.to_le_bytes()),
        Value::I8(v) => out.write_all(&v.to_le_bytes()),
        Value::U16(v) => out.write_all(&v.to_le_bytes()),
        Value::I16(v) => out.write_all(&v.to_le_bytes()),
        Value::U32(v) => out.write_all(&v.to_le_bytes()),
        Value::I32(v) => out.write_all(&v.to_le_bytes()),
        Value::F32(v) => out.write_all(&v.to_le_bytes()),
        Value::Bool(v) => out.write_all(&[u8::from(*v)]),
        Value::String(v) => write_sized(out, v.as_bytes()),
        Value::Array(v) => write_array(out, v),
        Value::U64(v) => out.write_all(&v.to_le_bytes()),
        Value::I64(v) => out.write_all(&v.to_le_bytes()),
        Value::F64(v) => out.write_all(&v.to_le_bytes()),
    }
}

fn write_array(out: &mut impl Write, array: &Array) -> io::Result<()> {
    out.write_all(&array.element_type_id().to_le_bytes())?;
    out.write_all(&(array.len() as u64).to_le_bytes())?;
    match array {
        Array::U8(v) => out.write_all(v),
        Array::I8(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::U16(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::I16(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::U32(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::I32(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::F32(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::Bool(v) => v.iter().try_for_each(|x| out.write_all(&[u8::from(*x)])),
        Array::String(v) => v.iter().try_for_each(|x| write_sized(out, x.as_bytes())),
        Array::Bytes(v) => v.iter().try_for_each(|x| write_sized(out, x)),
        Array::U64(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::I64(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        Array::F64(v) => v.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
    }
}

/// A stream that knows its position.
struct Counted<W> {
    out: W,
    written: u64,
}

impl<W: Write> Counted<W> {
    /// Zeros up to a multiple of `alignment`.
    fn pad(&mut self, alignment: u32) -> io::Result<()> {
        let alignment = u64::from(alignment);
        let padding = (alignment - self.written % alignment) % alignment;
        io::copy(&mut io::Read::take(io::repeat(0), padding), self)?;
        Ok(())
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
