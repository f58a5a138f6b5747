//! An array of numbers as other programs store it, turned into 32-bit floats.

use super::error::ImportErrorKind;

/// Type of an array's elements, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// bfloat16.
    Bf16,
    /// What edits are never stored as, by name.
    Other(&'static str),
}

/// Values with their dimensions, the slowest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Values in that order; as many as the product of the dimensions.
    pub values: Vec<f32>,
}

/// Most values of one array that is read.
pub const MAX_VALUES: u64 = 1 << 28;

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(_) => 1,
        }
    }

    /// Turns bytes into floats; a rest shorter than one element is dropped.
    pub fn floats(self, name: &str, bytes: &[u8]) -> Result<Vec<f32>, ImportErrorKind> {
        let halves = |ggml_type| {
            let mut values = vec![0.0; bytes.len() / 2];
            // Every pair of bytes is a 16-bit float, so that this cannot fail.
            let _ = crate::ggml::dequantize(ggml_type, &bytes[..2 * values.len()], &mut values);
            values
        };
        Ok(match self {
            Self::F64 => {
                let (numbers, _) = bytes.as_chunks::<8>();
                numbers
                    .iter()
                    .map(|n| f64::from_le_bytes(*n) as f32)
                    .collect()
            }
            Self::F32 => {
                let (numbers, _) = bytes.as_chunks::<4>();
                numbers.iter().map(|n| f32::from_le_bytes(*n)).collect()
            }
            Self::F16 => halves(jola_edit::gguf::F16),
            Self::Bf16 => halves(jola_edit::gguf::BF16),
            Self::Other(found) => {
                return Err(ImportErrorKind::DType {
                    tensor: name.to_owned(),
                    found: found.to_owned(),
                })
            }
        })
    }
}

impl Array {
    /// The array whose values are stored with the first dimension the fastest (Fortran's
    /// order).
    pub fn reversed(self) -> Self {
        let mut step = 1;
        let strides = self.shape.iter().map(|dim| {
            let stride = step;
            step *= dim;
            stride
        });
        let strides: Vec<u64> = strides.collect();
        let values = gather(&self.values, 0, &self.shape, &strides);
        Self { values, ..self }
    }
}

/// The values of an array that lie `stride` elements apart in each dimension, from `offset` on.
/// `stored` must reach as far as they do.
pub fn gather(stored: &[f32], offset: u64, shape: &[u64], stride: &[u64]) -> Vec<f32> {
    let count: u64 = shape.iter().product();
    let values = (0..count).map(|index| {
        let mut rest = index;
        let mut at = offset;
        for (dim, stride) in shape.iter().zip(stride).rev() {
            at += rest % dim * stride;
            rest /= dim;
        }
        stored[at as usize]
    });
    values.collect()
}

/// The number of elements of a shape, if it is one that is read.
pub fn elements(name: &str, shape: &[u64]) -> Result<u64, ImportErrorKind> {
    let product = shape
        .iter()
        .try_fold(1u64, |product, dim| product.checked_mul(*dim));
    product
        .filter(|elements| *elements <= MAX_VALUES)
        .ok_or_else(|| ImportErrorKind::TooLarge {
            tensor: name.to_owned(),
            shape: shape.to_vec(),
            limit: MAX_VALUES,
        })
}
