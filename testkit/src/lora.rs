//! Random LoRA adapters.

use std::path::Path;

use anyhow::Result;
use jola_edit::gguf::{GgufWriter, Metadata, F32};

use crate::Random;

/// A LoRA adapter in llama.cpp's format, of random numbers.
pub struct Lora<'a> {
    /// `general.architecture`.
    pub architecture: &'a str,
    /// `adapter.type`: `lora`, unless the adapter shall be refused.
    pub kind: &'a str,
    /// α; llama.cpp multiplies the change by α/r.
    pub alpha: f32,
    /// r
    pub rank: u64,
    /// Layers, each with all targets.
    pub layers: u32,
    /// Names of matrices such as `attn_q`, with their rows and columns.
    pub targets: &'a [(&'a str, u64, u64)],
    /// The numbers lie in ±this.
    pub size: f32,
    /// Seed of the numbers.
    pub seed: u64,
}

impl Lora<'_> {
    /// Writes the adapter.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut metadata = Metadata::new();
        metadata.insert("general.type", "adapter")?;
        metadata.insert("general.architecture", self.architecture)?;
        metadata.insert("adapter.type", self.kind)?;
        metadata.insert("adapter.lora.alpha", self.alpha)?;
        let mut writer = GgufWriter::new(metadata)?;
        let mut random = Random::new(self.seed);
        for layer in 0..self.layers {
            for (target, rows, columns) in self.targets {
                for (factor, dims) in [("a", [*columns, self.rank]), ("b", [self.rank, *rows])] {
                    let values = (0..dims[0] * dims[1]).map(|_| self.size * random.signed());
                    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
                    let name = format!("blk.{layer}.{target}.weight.lora_{factor}");
                    writer.add_tensor(name, F32, &dims, bytes)?;
                }
            }
        }
        writer.write(path)?;
        Ok(())
    }
}
