//! Parsing with a cursor that can neither overrun nor overflow.

use std::collections::HashMap;
use std::fmt::Arguments;
use std::ops::Range;

use super::role::other_format;
use super::value::ARRAY_ID;
use super::MAX_TENSOR_NAME_LEN;
use super::{align_up, Array, GgufErrorKind, Metadata, TensorInfo, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, OLDEST_VERSION, VERSION};
use super::{MAX_ARRAY_LEN, MAX_KEY_LEN, MAX_METADATA, MAX_STRING_LEN, MAX_TENSORS};

/// Everything in a file but the tensor data.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub alignment: u32,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    /// Name to position in `tensors`.
    pub by_name: HashMap<String, usize>,
    pub trailing_bytes: u64,
    data_start: u64,
}

impl Header {
    /// Where in the file a tensor's data lie; in bounds for the tensors of `self`.
    pub fn range(&self, info: &TensorInfo) -> Range<usize> {
        let start = (self.data_start + info.offset) as usize;
        start..start + info.len as usize
    }
}

/// Reads header, metadata and tensor table, and proves every tensor to lie in `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Header, GgufErrorKind> {
    let mut cursor = Cursor { rest: bytes, at: 0 };
    let version = read_version(&mut cursor, bytes)?;
    let n_tensors = cursor.u64(format_args!("number of tensors"))?;
    let n_metadata = cursor.u64(format_args!("number of metadata entries"))?;
    GgufErrorKind::check_limit(format_args!("number of tensors"), n_tensors, MAX_TENSORS)?;
    GgufErrorKind::check_limit(
        format_args!("number of metadata entries"),
        n_metadata,
        MAX_METADATA,
    )?;

    let mut metadata = Metadata::new();
    for index in 0..n_metadata {
        let key = cursor.string(format_args!("metadata key {index}"), MAX_KEY_LEN)?;
        let value = read_value(&mut cursor, &key)?;
        metadata.insert(key, value)?;
    }
    let alignment = alignment_of(&metadata)?;

    let mut tensors = Vec::new();
    let mut by_name = HashMap::new();
    let mut end = 0;
    for index in 0..n_tensors {
        let info = read_tensor_info(&mut cursor, index)?;
        if by_name.insert(info.name.clone(), tensors.len()).is_some() {
            return Err(GgufErrorKind::DuplicateTensor { tensor: info.name });
        }
        end = check_offset(&info, end, alignment)?;
        tensors.push(info);
    }
    // The header lies in memory, so rounding up its end cannot overflow.
    let data_start = align_up(cursor.at, alignment).unwrap_or(u64::MAX);
    check_inside(&tensors, data_start, bytes.len() as u64)?;
    let file_end = data_start
        .checked_add(end)
        .and_then(|end| align_up(end, alignment))
        .unwrap_or(u64::MAX);
    Ok(Header {
        version,
        alignment,
        metadata,
        tensors,
        by_name,
        trailing_bytes: (bytes.len() as u64).saturating_sub(file_end),
        data_start,
    })
}

/// The alignment that metadata ask for.
///
/// # Errors
/// `KeyType` unless `uint32`, `Alignment` unless a power of two.
pub(super) fn alignment_of(metadata: &Metadata) -> Result<u32, GgufErrorKind> {
    let found = metadata
        .optional(ALIGNMENT_KEY, "u32", Value::as_u32)?
        .unwrap_or(DEFAULT_ALIGNMENT);
    if found.is_power_of_two() {
        Ok(found)
    } else {
        Err(GgufErrorKind::Alignment { found })
    }
}

/// Little-endian numbers of `N` bytes each; a rest shorter than `N` is dropped.
pub(super) fn decode<const N: usize, T>(bytes: &[u8], number: fn([u8; N]) -> T) -> Vec<T> {
    let (numbers, _) = bytes.as_chunks::<N>();
    numbers.iter().map(|&bytes| number(bytes)).collect()
}

fn read_version(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<u32, GgufErrorKind> {
    let magic = cursor.array::<4>(format_args!("magic"))?;
    let reversed: Vec<u8> = MAGIC.iter().rev().copied().collect();
    if magic[..] == reversed {
        return Err(GgufErrorKind::BigEndian);
    }
    if magic != MAGIC {
        return Err(GgufErrorKind::Magic {
            found: magic.escape_ascii().to_string(),
            format: other_format(bytes),
        });
    }
    match cursor.u32(format_args!("GGUF version"))? {
        found @ OLDEST_VERSION..=VERSION => Ok(found),
        // A small version number with its bytes swapped.
        found if found != 0 && found & 0xffff == 0 => Err(GgufErrorKind::BigEndian),
        found => Err(GgufErrorKind::Version { found }),
    }
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufErrorKind> {
    let id = cursor.u32(format_args!("value type of `{key}`"))?;
    let what = format_args!("value of `{key}`");
    Ok(match id {
        0 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        4 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        5 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        7 => {
            let [byte] = cursor.array(what)?;
            Value::Bool(read_bool(byte, key)?)
        }
        8 => Value::String(cursor.string(what, MAX_STRING_LEN)?),
        ARRAY_ID => Value::Array(read_array(cursor, key)?),
        10 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        11 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
        _ => {
            return Err(GgufErrorKind::ValueType {
                key: key.to_owned(),
                id,
            })
        }
    })
}

fn read_bool(byte: u8, key: &str) -> Result<bool, GgufErrorKind> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(GgufErrorKind::Bool {
            key: key.to_owned(),
            found,
        }),
    }
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, GgufErrorKind> {
    let id = cursor.u32(format_args!("element type of `{key}`"))?;
    let len = cursor.u64(format_args!("array length of `{key}`"))?;
    GgufErrorKind::check_limit(format_args!("array length of `{key}`"), len, MAX_ARRAY_LEN)?;
    let what = format_args!("array `{key}` of {len}");
    Ok(match id {
        0 => Array::U8(cursor.numbers(len, u8::from_le_bytes, what)?),
        1 => Array::I8(cursor.numbers(len, i8::from_le_bytes, what)?),
        2 => Array::U16(cursor.numbers(len, u16::from_le_bytes, what)?),
        3 => Array::I16(cursor.numbers(len, i16::from_le_bytes, what)?),
        4 => Array::U32(cursor.numbers(len, u32::from_le_bytes, what)?),
        5 => Array::I32(cursor.numbers(len, i32::from_le_bytes, what)?),
        6 => Array::F32(cursor.numbers(len, f32::from_le_bytes, what)?),
        7 => {
            let bytes = cursor.take(len, what)?;
            let bools = bytes.iter().map(|&byte| read_bool(byte, key));
            Array::Bool(bools.collect::<Result<_, _>>()?)
        }
        8 => read_strings(cursor, key, len)?,
        10 => Array::U64(cursor.numbers(len, u64::from_le_bytes, what)?),
        11 => Array::I64(cursor.numbers(len, i64::from_le_bytes, what)?),
        12 => Array::F64(cursor.numbers(len, f64::from_le_bytes, what)?),
        ARRAY_ID => {
            return Err(GgufErrorKind::NestedArray {
                key: key.to_owned(),
            })
        }
        _ => {
            return Err(GgufErrorKind::ValueType {
                key: key.to_owned(),
                id,
            })
        }
    })
}

fn read_strings(cursor: &mut Cursor<'_>, key: &str, len: u64) -> Result<Array, GgufErrorKind> {
    // Every string takes at least its 8 bytes of length, which bounds the allocation.
    let smallest = len * 8;
    if smallest > cursor.remaining() {
        return Err(cursor.truncated(format_args!("array `{key}` of {len}"), smallest));
    }
    let mut raw = Vec::with_capacity(len as usize);
    for index in 0..len {
        raw.push(cursor.sized(format_args!("string {index} of `{key}`"), MAX_STRING_LEN)?);
    }
    let texts: Result<Vec<String>, _> = raw
        .iter()
        .map(|&bytes| std::str::from_utf8(bytes).map(str::to_owned))
        .collect();
    Ok(match texts {
        Ok(texts) => Array::String(texts),
        Err(_) => Array::Bytes(raw.into_iter().map(<[u8]>::to_vec).collect()),
    })
}

fn read_tensor_info(cursor: &mut Cursor<'_>, index: u64) -> Result<TensorInfo, GgufErrorKind> {
    let name = cursor.string(format_args!("name of tensor {index}"), MAX_TENSOR_NAME_LEN)?;
    let n_dims = cursor.u32(format_args!("number of dimensions of tensor `{name}`"))?;
    let dims = cursor.numbers(
        n_dims.into(),
        u64::from_le_bytes,
        format_args!("dimensions of tensor `{name}`"),
    )?;
    let ty = cursor.u32(format_args!("type of tensor `{name}`"))?;
    let offset = cursor.u64(format_args!("offset of tensor `{name}`"))?;
    let mut info = TensorInfo::new(name, ty, dims)?;
    info.offset = offset;
    Ok(info)
}

/// Checks that a tensor begins at `end`, rounded up; returns where it ends.
fn check_offset(info: &TensorInfo, end: u64, alignment: u32) -> Result<u64, GgufErrorKind> {
    let too_large = || GgufErrorKind::TensorSize {
        tensor: info.name.clone(),
        dims: info.dims.clone(),
    };
    let expected = align_up(end, alignment).ok_or_else(too_large)?;
    if info.offset != expected {
        return Err(GgufErrorKind::TensorOffset {
            tensor: info.name.clone(),
            expected,
            found: info.offset,
        });
    }
    expected.checked_add(info.len).ok_or_else(too_large)
}

/// Checks that every tensor's data end before the file does.
fn check_inside(
    tensors: &[TensorInfo],
    data_start: u64,
    file_len: u64,
) -> Result<(), GgufErrorKind> {
    for info in tensors {
        let offset = data_start.saturating_add(info.offset);
        let available = file_len.saturating_sub(offset);
        if offset > file_len || info.len > available {
            return Err(GgufErrorKind::Truncated {
                what: format!("data of tensor `{}`", info.name),
                offset,
                needed: info.len,
                available,
            });
        }
    }
    Ok(())
}

/// What is left to read. Text about what is being read is only formatted for errors.
struct Cursor<'a> {
    rest: &'a [u8],
    /// How many bytes were read before `rest`.
    at: u64,
}

impl<'a> Cursor<'a> {
    fn remaining(&self) -> u64 {
        self.rest.len() as u64
    }

    fn truncated(&self, what: Arguments<'_>, needed: u64) -> GgufErrorKind {
        GgufErrorKind::Truncated {
            what: what.to_string(),
            offset: self.at,
            needed,
            available: self.remaining(),
        }
    }

    /// The next `len` bytes.
    fn take(&mut self, len: u64, what: Arguments<'_>) -> Result<&'a [u8], GgufErrorKind> {
        let (taken, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len))
            .ok_or_else(|| self.truncated(what, len))?;
        self.rest = rest;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: Arguments<'_>) -> Result<[u8; N], GgufErrorKind> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.truncated(what, N as u64))?;
        self.rest = rest;
        self.at += N as u64;
        Ok(*taken)
    }

    fn u32(&mut self, what: Arguments<'_>) -> Result<u32, GgufErrorKind> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: Arguments<'_>) -> Result<u64, GgufErrorKind> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// `len` numbers of `N` bytes; the callers' limits on `len` keep the product in range.
    fn numbers<const N: usize, T>(
        &mut self,
        len: u64,
        number: fn([u8; N]) -> T,
        what: Arguments<'_>,
    ) -> Result<Vec<T>, GgufErrorKind> {
        let bytes = self.take(len.saturating_mul(N as u64), what)?;
        Ok(decode(bytes, number))
    }

    /// Bytes that follow their own length.
    fn sized(&mut self, what: Arguments<'_>, limit: u64) -> Result<&'a [u8], GgufErrorKind> {
        let len = self.u64(format_args!("length of {what}"))?;
        GgufErrorKind::check_limit(format_args!("length of {what}"), len, limit)?;
        self.take(len, what)
    }

    fn string(&mut self, what: Arguments<'_>, limit: u64) -> Result<String, GgufErrorKind> {
        let bytes = self.sized(what, limit)?;
        let text = std::str::from_utf8(bytes).map_err(|_| GgufErrorKind::Utf8 {
            what: what.to_string(),
        })?;
        Ok(text.to_owned())
    }
}
