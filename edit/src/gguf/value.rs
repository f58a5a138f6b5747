//! Metadata values with the exact type that the file stores, so that a file can be read and
//! written again without a change.

use serde::Serialize;

/// One metadata value, of any type that GGUF defines.
///
/// Serialises (serde) as the plain value, for reports in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// `uint8`, id 0.
    U8(u8),
    /// `int8`, id 1.
    I8(i8),
    /// `uint16`, id 2.
    U16(u16),
    /// `int16`, id 3.
    I16(i16),
    /// `uint32`, id 4.
    U32(u32),
    /// `int32`, id 5.
    I32(i32),
    /// `float32`, id 6.
    F32(f32),
    /// `bool`, id 7, one byte 0 or 1.
    Bool(bool),
    /// `string`, id 8, UTF-8.
    String(String),
    /// `array`, id 9, of scalars or strings.
    Array(Array),
    /// `uint64`, id 10.
    U64(u64),
    /// `int64`, id 11.
    I64(i64),
    /// `float64`, id 12.
    F64(f64),
}

/// An array value: one vector of the element type, since vocabularies have 10⁵ entries.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Array {
    /// Elements of type `uint8`.
    U8(Vec<u8>),
    /// Elements of type `int8`.
    I8(Vec<i8>),
    /// Elements of type `uint16`.
    U16(Vec<u16>),
    /// Elements of type `int16`.
    I16(Vec<i16>),
    /// Elements of type `uint32`.
    U32(Vec<u32>),
    /// Elements of type `int32`.
    I32(Vec<i32>),
    /// Elements of type `float32`.
    F32(Vec<f32>),
    /// Elements of type `bool`.
    Bool(Vec<bool>),
    /// Elements of type `string`.
    String(Vec<String>),
    /// Elements of type `string` of which at least one is not UTF-8: some vocabularies store
    /// raw bytes.
    Bytes(Vec<Vec<u8>>),
    /// Elements of type `uint64`.
    U64(Vec<u64>),
    /// Elements of type `int64`.
    I64(Vec<i64>),
    /// Elements of type `float64`.
    F64(Vec<f64>),
}

impl Value {
    /// The number that marks this type in a file.
    pub fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => ARRAY_ID,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// The type's name for messages: `u32`, `string`, `array of u32`, …
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(array) => array.type_name(),
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// The value if it is stored as `uint32`.
    pub fn as_u32(&self) -> Option<u32> {
        match self {
            Self::U32(value) => Some(*value),
            _ => None,
        }
    }

    /// The value if it is stored as any integer type and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::U64(value) => Some(*value),
            other => other.as_i64().and_then(|value| value.try_into().ok()),
        }
    }

    /// The value if it is stored as any integer type and fits `i64`.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::U8(value) => Some((*value).into()),
            Self::I8(value) => Some((*value).into()),
            Self::U16(value) => Some((*value).into()),
            Self::I16(value) => Some((*value).into()),
            Self::U32(value) => Some((*value).into()),
            Self::I32(value) => Some((*value).into()),
            Self::U64(value) => (*value).try_into().ok(),
            Self::I64(value) => Some(*value),
            _ => None,
        }
    }

    /// The value if it is stored as `float32`.
    pub fn as_f32(&self) -> Option<f32> {
        match self {
            Self::F32(value) => Some(*value),
            _ => None,
        }
    }

    /// The value if it is stored as `float32` or `float64`.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::F32(value) => Some((*value).into()),
            Self::F64(value) => Some(*value),
            _ => None,
        }
    }

    /// The value if it is stored as `bool`.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The text if it is stored as `string`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The elements if it is stored as `array`.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// Type id of arrays.
pub(super) const ARRAY_ID: u32 = 9;

impl Array {
    /// The number that marks the element type in a file.
    pub fn element_type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) | Self::Bytes(_) => 8,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// The type's name for messages, as `array of u32`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "array of u8",
            Self::I8(_) => "array of i8",
            Self::U16(_) => "array of u16",
            Self::I16(_) => "array of i16",
            Self::U32(_) => "array of u32",
            Self::I32(_) => "array of i32",
            Self::F32(_) => "array of f32",
            Self::Bool(_) => "array of bool",
            Self::String(_) => "array of string",
            Self::Bytes(_) => "array of string (not UTF-8)",
            Self::U64(_) => "array of u64",
            Self::I64(_) => "array of i64",
            Self::F64(_) => "array of f64",
        }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
            Self::Bytes(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements if they are `string` and all UTF-8.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::String(strings) => Some(strings),
            _ => None,
        }
    }

    /// The elements as `u32` if they are `uint32`, or `int32` without a negative one:
    /// llama.cpp takes either for counts per layer.
    pub fn to_u32s(&self) -> Option<Vec<u32>> {
        match self {
            Self::U32(values) => Some(values.clone()),
            Self::I32(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            _ => None,
        }
    }
}

macro_rules! value_from {
    ($($ty:ty => $variant:ident),+) => {$(
        impl From<$ty> for Value {
            fn from(value: $ty) -> Self {
                Self::$variant(value.into())
            }
        }
    )+};
}

value_from! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64, bool => Bool, String => String, &str => String, Array => Array
}
