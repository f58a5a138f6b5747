//! What the trainer asks of a frozen base model, whatever it is stored in: metadata and
//! tensors as the GGUF has them, a tokenizer, and what tells one file from another.

use std::path::Path;

use jola_edit::gguf::{Gguf, GgufError, Metadata};
use jola_edit::{sidecar, BaseShape};
use llama_jola::{ggml, Vocabulary};

use crate::base::hf::Directory;
use crate::Error;

/// Values dequantised at a time (4 MB of float32).
const CHUNK: usize = 1 << 20;

/// A stored base model. Names and metadata are GGUF's in every case.
pub trait Base {
    /// The file or directory.
    fn path(&self) -> &Path;

    /// Metadata, `general.architecture` and what stands under it at least.
    fn metadata(&self) -> &Metadata;

    /// Names of all tensors.
    fn tensor_names(&self) -> Vec<&str>;

    /// A tensor by name.
    fn tensor(&self, name: &str) -> Option<BaseTensor<'_>>;

    /// How to name a tensor that is not there, so that its user finds it.
    fn describe(&self, name: &str) -> String {
        name.to_owned()
    }

    /// The tokenizer and the chat template.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn vocabulary(&self) -> Result<Box<dyn Vocabulary>, Error>;

    /// SHA-256 of the GGUF file that the base is; `None` where it is no such file.
    ///
    /// # Errors
    /// Where the file cannot be read.
    fn gguf_sha256(&self) -> Result<Option<String>, Error>;

    /// What a sidecar must agree with.
    ///
    /// # Errors
    /// [`Error::Gguf`] for metadata that are missing or contradict each other.
    fn shape(&self) -> Result<BaseShape, Error> {
        let shape = BaseShape::from_metadata(self.metadata());
        Ok(shape.map_err(|kind| GgufError::new(self.path(), kind))?)
    }
}

/// Opens a base model: a directory in Hugging Face's layout, or a GGUF file.
///
/// # Errors
/// [`Error::Gguf`] or [`Error::HuggingFace`].
pub fn open(path: &Path) -> Result<Box<dyn Base>, Error> {
    if path.is_dir() {
        Ok(Box::new(Directory::open(path)?))
    } else {
        Ok(Box::new(Gguf::open(path)?))
    }
}

impl Base for Gguf {
    fn path(&self) -> &Path {
        Gguf::path(self)
    }

    fn metadata(&self) -> &Metadata {
        Gguf::metadata(self)
    }

    fn tensor_names(&self) -> Vec<&str> {
        self.tensors()
            .iter()
            .map(|info| info.name.as_str())
            .collect()
    }

    fn tensor(&self, name: &str) -> Option<BaseTensor<'_>> {
        let tensor = Gguf::tensor(self, name)?;
        let dims = tensor.info.dims.clone();
        Some(BaseTensor {
            file: Gguf::path(self),
            name: &tensor.info.name,
            reversed: false,
            parts: vec![Part {
                ggml_type: tensor.info.ty,
                bytes: tensor.bytes,
                rows: dims.iter().skip(1).product::<u64>() as usize,
                columns: dims.first().map_or(1, |&dim| dim as usize),
                order: RowOrder::Stored,
                plus: 0.0,
            }],
            dims,
        })
    }

    fn vocabulary(&self) -> Result<Box<dyn Vocabulary>, Error> {
        Ok(Box::new(llama_jola::Model::load_vocab(Gguf::path(self))?))
    }

    fn gguf_sha256(&self) -> Result<Option<String>, Error> {
        let path = Gguf::path(self);
        let digest = sidecar::sha256(path).map_err(|source| Error::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Some(digest))
    }
}

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
    pub parts: Vec<Part<'a>>,
}

/// A block of stored rows.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// ggml's id of the number format.
    pub ggml_type: u32,
    /// The stored numbers.
    pub bytes: &'a [u8],
    /// How many rows.
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
    /// As stored.
    Stored,
    /// Rows of `heads` heads, stored with the pairs of rotary embedding half a head apart,
    /// wanted side by side.
    PairUp {
        /// How many heads.
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

impl Part<'_> {
    fn read(&self, mut sink: impl FnMut(&[f32])) -> Result<(), llama_jola::Error> {
        let row_bytes = self.bytes.len() / self.rows.max(1);
        let rows_per_chunk = (CHUNK / self.columns.max(1)).clamp(1, self.rows.max(1));
        let mut floats = vec![0f32; rows_per_chunk * self.columns];
        for start in (0..self.rows).step_by(rows_per_chunk) {
            let count = rows_per_chunk.min(self.rows - start);
            let floats = &mut floats[..count * self.columns];
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
        let part = |order, plus| Part {
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
