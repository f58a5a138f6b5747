//! A frozen matrix as it is held: dense, or in the blocks of the file.
//!
//! Blocks are dequantised where the matrix is used and let go again: a model takes the memory
//! of its file and one layer's dense weights, at the price of dequantising them in every pass.

use tch::{no_grad, Device, Kind, Tensor};

use super::blocks::BlockFormat;
use super::filling::fill;
use crate::base::{RowOrder, StoredRows};

/// Numbers that are dequantised on a GPU at a time: what a step of it leaves behind takes ten
/// bytes for each.
const CHUNK: i64 = 1 << 24;

/// Stored blocks of some rows.
#[derive(Debug)]
pub struct BlockRows {
    format: BlockFormat,
    /// [rows, blocks of a row, bytes of a block] uint8
    blocks: Tensor,
}

/// Some rows of a matrix.
#[derive(Debug)]
pub enum Rows {
    /// [rows, columns] in the format of storage
    Dense(Tensor),
    /// As in the file.
    Blocks(BlockRows),
}

/// Whether stored rows can stay as they are.
pub(crate) fn stays_in_blocks(part: &StoredRows) -> bool {
    let plain = part.order == RowOrder::Stored && part.plus == 0.0;
    let format = BlockFormat::of(part.ggml_type);
    plain && format.is_some_and(|format| part.columns as i64 % format.numbers == 0)
}

/// A matrix [rows, columns].
#[derive(Debug)]
pub struct Weight {
    parts: Vec<Rows>,
    kind: Kind,
}

impl From<Tensor> for Weight {
    /// A dense matrix.
    fn from(tensor: Tensor) -> Weight {
        let kind = tensor.kind();
        let parts = vec![Rows::Dense(tensor)];
        Weight { parts, kind }
    }
}

impl Rows {
    /// Those of `part` on `device`, where their format can stay; `None` otherwise.
    pub(super) fn blocks(part: &StoredRows, device: Device) -> Option<Rows> {
        if !stays_in_blocks(part) {
            return None;
        }
        let format = BlockFormat::of(part.ggml_type)?;
        let of_row = part.columns as i64 / format.numbers;
        let shape = [part.rows as i64, of_row, format.bytes];
        let blocks = Tensor::from_data_size(part.bytes, &shape, Kind::Uint8).to_device(device);
        Some(Rows::Blocks(BlockRows { format, blocks }))
    }

    fn rows(&self) -> i64 {
        match self {
            Rows::Dense(tensor) => tensor.size()[0],
            Rows::Blocks(rows) => rows.blocks.size()[0],
        }
    }

    fn columns(&self) -> i64 {
        match self {
            Rows::Dense(tensor) => tensor.size()[1],
            Rows::Blocks(rows) => rows.blocks.size()[1] * rows.format.numbers,
        }
    }

    fn narrow(&self, start: i64, len: i64) -> Rows {
        match self {
            Rows::Dense(tensor) => Rows::Dense(tensor.narrow(0, start, len)),
            Rows::Blocks(rows) => Rows::Blocks(rows.with(rows.blocks.narrow(0, start, len))),
        }
    }

    /// Dense [rows, columns] into `target`.
    fn write(&self, target: &Tensor) {
        match self {
            Rows::Dense(tensor) => no_grad(|| target.shallow_clone().copy_(tensor)),
            Rows::Blocks(rows) => rows.write(target),
        }
    }
}

impl BlockRows {
    fn with(&self, blocks: Tensor) -> BlockRows {
        let format = self.format;
        BlockRows { format, blocks }
    }

    /// [rows, columns] in the format of `target`.
    fn write(&self, target: &Tensor) {
        match self.blocks.device() {
            Device::Cpu => self.write_by_ggml(target),
            _ => self.write_by_tensors(target),
        }
    }

    /// By ggml's own code.
    fn write_by_ggml(&self, target: &Tensor) {
        let blocks = self.blocks.contiguous();
        let size = self.blocks.size();
        // SAFETY: the tensor's memory holds so many bytes, and nothing writes to it.
        let bytes =
            unsafe { std::slice::from_raw_parts(blocks.data_ptr().cast::<u8>(), blocks.numel()) };
        let part = StoredRows {
            ggml_type: self.format.ggml_type,
            bytes,
            rows: size[0] as usize,
            columns: (size[1] * self.format.numbers) as usize,
            order: RowOrder::Stored,
            plus: 0.0,
        };
        fill(&[part], target).expect("these blocks have been counted");
    }

    /// By operations on the device that holds the blocks.
    fn write_by_tensors(&self, target: &Tensor) {
        let size = self.blocks.size();
        let columns = size[1] * self.format.numbers;
        let at_once = (CHUNK / columns).max(1);
        no_grad(|| {
            for start in (0..size[0]).step_by(at_once as usize) {
                let rows = at_once.min(size[0] - start);
                let blocks = self.blocks.narrow(0, start, rows);
                let numbers = self
                    .format
                    .dequantise(&blocks.reshape([-1, self.format.bytes]));
                let mut target = target.narrow(0, start, rows);
                target.copy_(&numbers.view([rows, columns]));
            }
        });
    }
}

impl Weight {
    /// A matrix of these rows, one below the other, which is used in format `kind`.
    pub(super) fn new(parts: Vec<Rows>, kind: Kind) -> Weight {
        let dense = |part: &Rows| match part {
            Rows::Dense(tensor) => Some(tensor.shallow_clone()),
            Rows::Blocks(_) => None,
        };
        match parts.iter().map(dense).collect::<Option<Vec<Tensor>>>() {
            Some(tensors) if tensors.len() > 1 => Tensor::cat(&tensors, 0).into(),
            _ => Weight { parts, kind },
        }
    }

    /// Rows and columns.
    pub fn size(&self) -> [i64; 2] {
        [
            self.parts.iter().map(Rows::rows).sum(),
            self.parts.first().map_or(0, Rows::columns),
        ]
    }

    /// Where it is held.
    pub fn device(&self) -> Device {
        match self.parts.first() {
            Some(Rows::Dense(tensor)) => tensor.device(),
            Some(Rows::Blocks(rows)) => rows.blocks.device(),
            None => Device::Cpu,
        }
    }

    /// All of it, dense: [rows, columns]. Of a matrix in blocks it is a new tensor each time.
    pub fn dense(&self) -> Tensor {
        if let [Rows::Dense(tensor)] = &self.parts[..] {
            return tensor.shallow_clone();
        }
        let target = Tensor::empty(self.size(), (self.kind, self.device()));
        let mut start = 0;
        for part in &self.parts {
            part.write(&target.narrow(0, start, part.rows()));
            start += part.rows();
        }
        target
    }

    /// Rows `start..start + len`, which lie in one part.
    pub(super) fn narrow(&self, start: i64, len: i64) -> Weight {
        let mut before = 0;
        for part in &self.parts {
            if start < before + part.rows() {
                let parts = vec![part.narrow(start - before, len)];
                return Weight {
                    parts,
                    kind: self.kind,
                };
            }
            before += part.rows();
        }
        panic!("row {start} of {before}")
    }

    /// The rows of these numbers [n], dense: [n, columns].
    pub(super) fn rows(&self, numbers: &Tensor) -> Tensor {
        match &self.parts[..] {
            [Rows::Dense(tensor)] => Tensor::embedding(tensor, numbers, -1, false, false),
            [Rows::Blocks(rows)] => {
                let chosen = rows.with(rows.blocks.index_select(0, numbers));
                let size = [numbers.size()[0], self.size()[1]];
                let target = Tensor::empty(size, (self.kind, numbers.device()));
                chosen.write(&target);
                target
            }
            _ => Tensor::embedding(&self.dense(), numbers, -1, false, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llama_jola::ggml;

    const Q4_0: u32 = 2;
    const Q6_K: u32 = 14;

    fn stored(bytes: &[u8], ggml_type: u32, rows: usize) -> StoredRows<'_> {
        StoredRows {
            ggml_type,
            bytes,
            rows,
            columns: 256,
            order: RowOrder::Stored,
            plus: 0.0,
        }
    }

    fn quantised(ggml_type: u32, rows: usize) -> Vec<u8> {
        let values: Vec<f32> = (0..rows * 256).map(|i| (i as f32 * 0.37).sin()).collect();
        ggml::quantize(ggml_type, &values, 256).unwrap()
    }

    #[test]
    fn joined_blocks_of_mixed_formats_equal_their_dense_rows() {
        let (q4, q6) = (quantised(Q4_0, 3), quantised(Q6_K, 2));
        let parts = [stored(&q4, Q4_0, 3), stored(&q6, Q6_K, 2)];
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let dense = Tensor::empty([5, 256], (kind, Device::Cpu));
            fill(&parts, &dense).unwrap();
            let rows = parts.iter().map(|p| Rows::blocks(p, Device::Cpu).unwrap());
            let joined = Weight::new(rows.collect(), kind);
            assert_eq!(joined.size(), [5, 256]);
            assert!(joined.dense().equal(&dense));
            assert!(joined.narrow(3, 2).dense().equal(&dense.narrow(0, 3, 2)));
            let numbers = Tensor::from_slice(&[2i64, 0]);
            for weight in [joined, Weight::from(dense.shallow_clone())] {
                let rows = weight.rows(&numbers);
                assert!(rows.equal(&dense.index_select(0, &numbers)));
            }
            // One matrix of its own, as token embeddings are.
            let own = Weight::new(vec![Rows::blocks(&parts[1], Device::Cpu).unwrap()], kind);
            let rows = own.rows(&Tensor::from_slice(&[1i64]));
            assert!(rows.equal(&dense.narrow(0, 4, 1)));
        }
    }

    #[test]
    fn tensor_operations_and_ggml_write_the_same() {
        let bytes = quantised(Q6_K, 7);
        let Some(Rows::Blocks(rows)) = Rows::blocks(&stored(&bytes, Q6_K, 7), Device::Cpu) else {
            panic!("q6_K stays as it is");
        };
        let [a, b] = [(); 2].map(|()| Tensor::empty([7, 256], (Kind::BFloat16, Device::Cpu)));
        rows.write_by_ggml(&a);
        rows.write_by_tensors(&b);
        assert!(a.equal(&b));
    }
}
