//! An array of numbers as other programs store it, turned into 32-bit floats.

use super::element::ElementType;
use super::error::ImportErrorKind;

/// Values with their dimensions, the slowest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Length of each dimension.
    pub shape: Vec<u64>,
    /// Values in that order; as many as the product of the dimensions.
    pub values: Vec<f32>,
}

/// Most values of one array that is read: those of an edit of a whole model.
pub const MAX_VALUES: u64 = jola_edit::sidecar::MAX_MODEL_LEN;
/// Most dimensions of one array (NumPy's limit).
pub const MAX_DIMS: usize = 64;

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

/// The values of the array `name`, stored as `element`.
///
/// # Errors
/// [`ImportErrorKind::ElementType`] when edits are never stored so.
pub fn floats(name: &str, element: ElementType, bytes: &[u8]) -> Result<Vec<f32>, ImportErrorKind> {
    let values = element.floats(bytes);
    values.map_err(|found| ImportErrorKind::ElementType {
        tensor: name.to_owned(),
        found: found.to_owned(),
    })
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
    if shape.len() > MAX_DIMS {
        return Err(ImportErrorKind::Dimensions {
            tensor: name.to_owned(),
            found: shape.len(),
            limit: MAX_DIMS,
        });
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_up_to_their_limits() {
        assert_eq!(elements("x", &[MAX_VALUES]).unwrap(), MAX_VALUES);
        assert_eq!(elements("x", &[MAX_VALUES, 0]).unwrap(), 0);
        for shape in [&[MAX_VALUES + 1][..], &[1 << 32, 1 << 32], &[u64::MAX, 2]] {
            let error = elements("x", shape).unwrap_err();
            assert!(matches!(error, ImportErrorKind::TooLarge { .. }), "{error}");
        }
        assert_eq!(elements("x", &[1; MAX_DIMS]).unwrap(), 1);
        let error = elements("x", &[1; MAX_DIMS + 1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor `x` has 65 dimensions, the limit is 64"
        );
    }
}
