//! A tensor of a base model: where its numbers are stored, in which format and order, and how
//! they are read as float32.

use std::path::Path;

use llama_jola::ggml;

/// Values dequantised at a time (1 MB of float32).
const CHUNK: usize = 1 << 18;

/// A tensor of a base model: stored parts, one after the other.
#[derive(Debug)]
pub struct BaseTensor<'a> {
    /// The file that holds it, or its first part.
    pub file: &'a Path,
    /// Its name in that file.
    pub name: &'a str,
    /// Whether that file counts dimensions from the slowest, as torch does.
    pub reversed: bool,
    /// Dimensions in GGUF order, the fastest first.
    pub dims: Vec<u64>,
    /// What it is made of.
    pub parts: Vec<StoredRows<'a>>,
}

/// A block of stored rows.
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    /// ggml's id of the number format.
    pub ggml_type: u32,
    /// The stored numbers.
    pub bytes: &'a [u8],
    /// How many rows there are.
    pub rows: usize,
    /// Numbers in a row.
    pub columns: usize,
    /// The order that the rows are wanted in.
    pub order: RowOrder,
    /// Added to every number.
    pub plus: f32,
}

/// Where a wanted row stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Rows are wanted as they are stored.
    Stored,
    /// Rows of `heads` heads, stored with the pairs of rotary embedding half a head apart,
    /// wanted side by side.
    PairUp {
        /// How many heads the rows belong to.
        heads: usize,
    },
}

impl RowOrder {
    /// The stored row that becomes row `row` of `rows`.
    fn source(self, row: usize, rows: usize) -> usize {
        match self {
            RowOrder::Stored => row,
            RowOrder::PairUp { heads } => {
                let width = rows / heads;
                let (head, within) = (row / width, row % width);
                head * width + within % 2 * (width / 2) + within / 2
            }
        }
    }
}

impl BaseTensor<'_> {
    /// Dequantises all of it, in order, a few rows at a time: `sink` is given the number of
    /// values before, and values.
    ///
    /// # Errors
    /// [`llama_jola::Error::Dequantize`].
    pub fn read(&self, mut sink: impl FnMut(usize, &[f32])) -> Result<(), llama_jola::Error> {
        let mut done = 0;
        for part in &self.parts {
            part.read(|values| {
                sink(done, values);
                done += values.len();
            })?;
        }
        Ok(())
    }

    /// Dimensions, given in GGUF order, as the file counts them.
    pub fn shown<T: Copy>(&self, dims: &[T]) -> Vec<T> {
        let mut dims = dims.to_vec();
        if self.reversed {
            dims.reverse();
        }
        dims
    }
}

impl StoredRows<'_> {
    /// How many rows are dequantised at a time.
    pub fn rows_per_chunk(&self) -> usize {
        (CHUNK / self.columns.max(1)).clamp(1, self.rows.max(1))
    }

    /// Dequantises the wanted rows from `start` on into `floats`, which is as long as some rows.
    ///
    /// # Errors
    /// [`llama_jola::Error::Dequantize`].
    pub fn dequantise(&self, start: usize, floats: &mut [f32]) -> Result<(), llama_jola::Error> {
        let row_bytes = self.bytes.len() / self.rows.max(1);
        let count = floats.len() / self.columns.max(1);
        if self.order == RowOrder::Stored {
            let bytes = &self.bytes[start * row_bytes..(start + count) * row_bytes];
            ggml::dequantize(self.ggml_type, bytes, floats)?;
        } else {
            for (i, row) in floats.chunks_mut(self.columns).enumerate() {
                let source = self.order.source(start + i, self.rows);
                let bytes = &self.bytes[source * row_bytes..(source + 1) * row_bytes];
                ggml::dequantize(self.ggml_type, bytes, row)?;
            }
        }
        if self.plus != 0.0 {
            floats.iter_mut().for_each(|value| *value += self.plus);
        }
        Ok(())
    }

    fn read(&self, mut sink: impl FnMut(&[f32])) -> Result<(), llama_jola::Error> {
        let rows_per_chunk = self.rows_per_chunk();
        let mut floats = vec![0f32; rows_per_chunk * self.columns];
        for start in (0..self.rows).step_by(rows_per_chunk) {
            let count = rows_per_chunk.min(self.rows - start);
            let floats = &mut floats[..count * self.columns];
            self.dequantise(start, floats)?;
            sink(floats);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_half_a_head_apart_come_side_by_side() {
        let order = RowOrder::PairUp { heads: 2 };
        let sources: Vec<usize> = (0..8).map(|row| order.source(row, 8)).collect();
        assert_eq!(sources, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn parts_are_read_one_after_the_other() {
        let bytes: Vec<u8> = (0..8).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let part = |order, plus| StoredRows {
            ggml_type: 0,
            bytes: &bytes,
            rows: 4,
            columns: 2,
            order,
            plus,
        };
        let tensor = BaseTensor {
            file: Path::new("file"),
            name: "name",
            reversed: true,
            dims: vec![2, 8],
            parts: vec![
                part(RowOrder::Stored, 1.0),
                part(RowOrder::PairUp { heads: 1 }, 0.0),
            ],
        };
        let mut values = [0.0; 16];
        let read =
            tensor.read(|start, part| values[start..start + part.len()].copy_from_slice(part));
        read.unwrap();
        assert_eq!(values[..8], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(values[8..], [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        assert_eq!(tensor.shown(&[1, 2, 3]), [3, 2, 1]);
    }
}
