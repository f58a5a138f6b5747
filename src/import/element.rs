//! The types in which other programs store numbers. A file of its own, since both an array
//! and a pickle, which only says where an array lies, speak of them.

/// Type of an array's elements, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// bfloat16, a 32-bit float without its lower half.
    Bf16,
    /// What edits are never stored as, by name.
    Other(&'static str),
}

impl ElementType {
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
    ///
    /// # Errors
    /// The name of a type that edits are never stored as.
    pub fn floats(self, bytes: &[u8]) -> Result<Vec<f32>, &'static str> {
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
            Self::Other(found) => return Err(found),
        })
    }
}
