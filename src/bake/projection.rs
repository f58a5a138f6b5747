//! The arithmetic: scaled columns of W_O, and the bias that an offset becomes.

use std::io::Write;

use jola_edit::gguf::Tensor;

use crate::{ggml, Error};

/// Values that are in memory as floats at once, rounded up to a whole row.
const CHUNK: usize = 1 << 18;

/// What goes wrong while a tensor is written.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// ggml cannot turn the stored type into floats, or floats into it.
    #[error("{tensor}: {error}")]
    Ggml {
        /// Name of the tensor.
        tensor: String,
        /// What ggml said.
        error: Error,
    },
    /// The result leaves the range of 32-bit floats, or the base's values were never in it.
    #[error("{tensor}: value {index} of the result is {value}")]
    NotFinite {
        /// Name of the tensor.
        tensor: String,
        /// Position in the tensor.
        index: usize,
        /// The value that is not finite.
        value: f32,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Writes W·diag(mul) as ggml type `id`, some rows at a time.
pub fn scale_columns(
    weight: Tensor<'_>,
    mul: &[f32],
    id: u32,
    out: &mut dyn Write,
) -> Result<(), ProjectionError> {
    for_scaled_rows(weight, mul, |rows| {
        let bytes = ggml::quantize(id, rows, mul.len()).map_err(|e| ggml_error(weight, e))?;
        Ok(out.write_all(&bytes)?)
    })
}

/// Writes what [`scale_columns`] writes as type `id`, turned back into 32-bit floats.
pub fn scale_columns_rounded(
    weight: Tensor<'_>,
    mul: &[f32],
    id: u32,
    out: &mut dyn Write,
) -> Result<(), ProjectionError> {
    for_scaled_rows(weight, mul, |rows| {
        let bytes = ggml::quantize(id, rows, mul.len()).map_err(|e| ggml_error(weight, e))?;
        ggml::dequantize(id, &bytes, rows).map_err(|e| ggml_error(weight, e))?;
        Ok(write_floats(rows, out)?)
    })
}

/// Writes a tensor as ggml type `id`.
pub fn convert(tensor: Tensor<'_>, id: u32, out: &mut dyn Write) -> Result<(), ProjectionError> {
    let [row, ..] = tensor.info.padded_dims();
    for_rows(tensor, row as usize, |_, rows| {
        let bytes = ggml::quantize(id, rows, row as usize).map_err(|e| ggml_error(tensor, e))?;
        Ok(out.write_all(&bytes)?)
    })
}

/// Writes 32-bit floats as a file holds them.
pub fn write_floats(values: &[f32], out: &mut dyn Write) -> std::io::Result<()> {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    out.write_all(&bytes)
}

/// bias + scale·W·add, summed in 64-bit floats and rounded once.
pub fn bias(
    weight: Tensor<'_>,
    add: &[f32],
    scale: f32,
    bias: Option<Tensor<'_>>,
) -> Result<Vec<f32>, ProjectionError> {
    let mut sums: Vec<f64> = Vec::new();
    for_rows(weight, add.len(), |_, rows| {
        sums.extend(rows.chunks_exact(add.len()).map(|row| {
            let terms = row
                .iter()
                .zip(add)
                .map(|(w, a)| f64::from(*w) * f64::from(*a));
            f64::from(scale) * terms.sum::<f64>()
        }));
        Ok(())
    })?;
    if let Some(bias) = bias {
        let mut stored = vec![0.0; sums.len()];
        ggml::dequantize(bias.info.ty, bias.bytes, &mut stored)
            .map_err(|error| ggml_error(bias, error))?;
        for (sum, stored) in sums.iter_mut().zip(stored) {
            *sum += f64::from(stored);
        }
    }
    let rounded: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
    check_finite(weight, 0, &rounded)?;
    Ok(rounded)
}

/// Hands the rows of W·diag(mul) to `use_rows`, some at a time.
fn for_scaled_rows(
    weight: Tensor<'_>,
    mul: &[f32],
    mut use_rows: impl FnMut(&mut [f32]) -> Result<(), ProjectionError>,
) -> Result<(), ProjectionError> {
    for_rows(weight, mul.len(), |first, rows| {
        for row in rows.chunks_exact_mut(mul.len()) {
            for (value, factor) in row.iter_mut().zip(mul) {
                *value *= factor;
            }
        }
        check_finite(weight, first * mul.len(), rows)?;
        use_rows(rows)
    })
}

/// Hands the rows of a matrix as floats to `use_rows`, some at a time, with the number of the
/// first.
fn for_rows(
    weight: Tensor<'_>,
    row: usize,
    mut use_rows: impl FnMut(usize, &mut [f32]) -> Result<(), ProjectionError>,
) -> Result<(), ProjectionError> {
    let elements = weight.info.elements() as usize;
    if row == 0 || elements == 0 {
        return Ok(());
    }
    let row_bytes = weight.bytes.len() / (elements / row);
    let rows_at_once = CHUNK.div_ceil(row);
    let mut first = 0;
    for bytes in weight.bytes.chunks((row_bytes * rows_at_once).max(1)) {
        let rows = bytes.len() / row_bytes.max(1);
        let mut values = vec![0.0; rows * row];
        ggml::dequantize(weight.info.ty, bytes, &mut values)
            .map_err(|error| ggml_error(weight, error))?;
        use_rows(first, &mut values)?;
        first += rows;
    }
    Ok(())
}

fn ggml_error(tensor: Tensor<'_>, error: Error) -> ProjectionError {
    ProjectionError::Ggml {
        tensor: tensor.info.name.clone(),
        error,
    }
}

fn check_finite(tensor: Tensor<'_>, first: usize, values: &[f32]) -> Result<(), ProjectionError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(ProjectionError::NotFinite {
            tensor: tensor.info.name.clone(),
            index: first + index,
            value: values[index],
        }),
    }
}
