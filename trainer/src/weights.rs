//! Loading a base model: from the memory-mapped GGUF through ggml's own dequantisation
//! into tensors of the wanted format, block by block, without a second copy.

use std::collections::HashSet;
use std::path::Path;

use jola_edit::gguf::Gguf;
use llama_jola::ggml;
use tch::{no_grad, Device, Kind, Tensor};

use crate::config::Config;
use crate::model::{Layer, Model, Precision};
use crate::Error;

/// Values dequantised at a time (4 MB of float32).
const CHUNK: usize = 1 << 20;

impl Model {
    /// Opens, checks and loads a base model.
    ///
    /// # Errors
    /// As [`Config::read`]; [`Error::Tensor`] names a tensor that is missing, misshapen or
    /// not part of the reference model.
    pub fn load(path: &Path, precision: Precision, device: Device) -> Result<Model, Error> {
        Model::from_gguf(&Gguf::open(path)?, precision, device)
    }

    /// Loads the weights of an open file.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_gguf(gguf: &Gguf, precision: Precision, device: Device) -> Result<Model, Error> {
        let config = Config::read(gguf)?;
        let mut loader = Loader { gguf, precision, device, used: HashSet::new() };
        let d = config.n_embd;
        let query = config.n_head * config.head_dim;
        let key_value = config.n_head_kv * config.head_dim;
        let token_embd = loader.matrix(&[("token_embd.weight", config.n_vocab)], d)?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => loader.matrix(&[("output.weight", config.n_vocab)], d)?,
            None => token_embd.shallow_clone(),
        };
        let mut layers = Vec::with_capacity(config.n_layer);
        for l in 0..config.n_layer {
            let name = |what: &str| format!("blk.{l}.{what}.weight");
            let (q, k, v) = (name("attn_q"), name("attn_k"), name("attn_v"));
            let (gate, up) = (name("ffn_gate"), name("ffn_up"));
            layers.push(Layer {
                attn_norm: loader.vector(&name("attn_norm"), d)?,
                attn_qkv: loader.matrix(&[(&q, query), (&k, key_value), (&v, key_value)], d)?,
                attn_output: loader.matrix(&[(&name("attn_output"), d)], query)?,
                ffn_norm: loader.vector(&name("ffn_norm"), d)?,
                ffn_gate_up: loader.matrix(&[(&gate, config.n_ff), (&up, config.n_ff)], d)?,
                ffn_down: loader.matrix(&[(&name("ffn_down"), d)], config.n_ff)?,
            });
        }
        let output_norm = loader.vector("output_norm.weight", d)?;
        let rope_frequencies = loader.rope_frequencies(&config)?;
        loader.refuse_unused()?;
        Ok(Model { config, precision, token_embd, layers, output_norm, output, rope_frequencies })
    }
}

struct Loader<'a> {
    gguf: &'a Gguf,
    precision: Precision,
    device: Device,
    used: HashSet<String>,
}

impl Loader<'_> {
    /// Tensors [out, columns] joined along `out`, each given as (name, out).
    fn matrix(&mut self, parts: &[(&str, usize)], columns: usize) -> Result<Tensor, Error> {
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        let storage = self.precision.storage;
        let flat = Tensor::empty([(rows * columns) as i64], (storage, self.device));
        let mut start = 0;
        for (name, rows) in parts {
            let len = rows * columns;
            self.read(name, &[columns, *rows], flat.narrow(0, start as i64, len as i64))?;
            start += len;
        }
        Ok(flat.view([rows as i64, columns as i64]))
    }

    /// A norm's weight [len], in the format of the arithmetic.
    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor, Error> {
        let tensor = Tensor::empty([len as i64], (self.precision.math, self.device));
        self.read(name, &[len], tensor.shallow_clone())?;
        Ok(tensor)
    }

    /// The angle of each pair at position 1, [D/2] float64; `rope_freqs.weight` divides it.
    fn rope_frequencies(&mut self, config: &Config) -> Result<Tensor, Error> {
        let half = config.head_dim / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|i| config.rope_base.powf(-(i as f64) / half as f64) / config.rope_divisor)
            .collect();
        let frequencies = Tensor::from_slice(&frequencies).to_device(self.device);
        let name = "rope_freqs.weight";
        if self.gguf.tensor(name).is_none() {
            return Ok(frequencies);
        }
        let factors = self.vector(name, half)?;
        Ok(frequencies / factors.to_kind(Kind::Double))
    }

    /// Dequantises tensor `name` of the given GGUF dimensions into `target` [product].
    fn read(&mut self, name: &str, dims: &[usize], target: Tensor) -> Result<(), Error> {
        let error = |reason: String| Error::Tensor {
            path: self.gguf.path().to_path_buf(),
            name: name.to_owned(),
            reason,
        };
        let tensor = self.gguf.tensor(name).ok_or_else(|| error("is missing".to_owned()))?;
        let found = tensor.info.padded_dims();
        let mut expected = [1; 4];
        for (slot, &dim) in expected.iter_mut().zip(dims) {
            *slot = dim as u64;
        }
        if found != expected {
            let reason = format!("has shape {:?}, expected {dims:?}", tensor.info.dims);
            return Err(error(reason));
        }
        // Whole rows per chunk, so that every chunk is a whole number of blocks.
        let (columns, rows) = (dims[0], tensor.info.elements() as usize / dims[0]);
        let row_bytes = tensor.bytes.len() / rows;
        let rows_per_chunk = (CHUNK / columns).max(1);
        let mut floats = vec![0f32; rows_per_chunk.min(rows) * columns];
        for start in (0..rows).step_by(rows_per_chunk) {
            let count = rows_per_chunk.min(rows - start);
            let floats = &mut floats[..count * columns];
            let bytes = &tensor.bytes[start * row_bytes..(start + count) * row_bytes];
            ggml::dequantize(tensor.info.ty, bytes, floats)
                .map_err(|source| error(source.to_string()))?;
            let offset = (start * columns) as i64;
            let mut part = target.narrow(0, offset, floats.len() as i64);
            no_grad(|| part.copy_(&Tensor::from_slice(floats)));
        }
        self.used.insert(name.to_owned());
        Ok(())
    }

    /// A tensor that llama.cpp would use and the reference model would not makes the two
    /// compute different things.
    fn refuse_unused(&self) -> Result<(), Error> {
        match self.gguf.tensors().iter().find(|info| !self.used.contains(&info.name)) {
            None => Ok(()),
            Some(info) => Err(Error::Tensor {
                path: self.gguf.path().to_path_buf(),
                name: info.name.clone(),
                reason: "is not part of the model that the trainer knows".to_owned(),
            }),
        }
    }
}
