//! Reading the tensors of a base model through ggml's own dequantisation into tensors of the
//! wanted format, or as the blocks that the file has.

use std::collections::HashSet;

use tch::{Device, Tensor};

use super::filling::fill;
use super::linear::Linear;
use super::precision::Precision;
use super::weight::{Rows, Weight};
use crate::base::{Base, BaseTensor, StoredRows};
use crate::Error;

/// Reads tensors and notes which have been read.
pub(super) struct TensorReader<'a> {
    base: &'a dyn Base,
    precision: Precision,
    device: Device,
    /// Which matrices may have a bias besides query, key and value.
    biases: &'static [&'static str],
    /// Names of the tensors that have been read.
    used: HashSet<String>,
}

/// Matrices of a layer with their rows, named without it.
pub(super) fn part_names(parts: &[(&str, usize)]) -> Vec<(String, i64)> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let parts = parts.iter();
    parts
        .map(|(name, rows)| (last(name), *rows as i64))
        .collect()
}

impl<'a> TensorReader<'a> {
    /// For the tensors of `base`; `biases` as in [`crate::architectures::Architecture`].
    pub fn new(
        base: &'a dyn Base,
        precision: Precision,
        device: Device,
        biases: &'static [&'static str],
    ) -> TensorReader<'a> {
        TensorReader {
            base,
            precision,
            device,
            biases,
            used: HashSet::new(),
        }
    }

    /// Where tensors are read to.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Reads to this device from now on.
    pub fn read_to(&mut self, device: Device) {
        self.device = device;
    }

    /// Whether the base has this tensor.
    pub fn holds(&self, name: &str) -> bool {
        self.base.tensor(name).is_some()
    }

    /// Matrix `name` [out, columns] and its bias, if it has and may have one.
    pub fn linear(&mut self, name: &str, out: usize, columns: usize) -> Result<Linear, Error> {
        Ok(Linear {
            weight: self.matrix(&[(name, out)], columns)?,
            bias: self.allowed_bias(&[(name, out)])?,
            parts: part_names(&[(name, out)]),
        })
    }

    /// Matrices [out, columns] joined along `out`, each given as (name, out).
    pub fn matrix(&mut self, parts: &[(&str, usize)], columns: usize) -> Result<Weight, Error> {
        let mut rows = Vec::with_capacity(parts.len());
        for (name, out) in parts {
            rows.extend(self.rows(name, &[columns, *out])?);
        }
        Ok(self.weight(rows))
    }

    /// The matrices of all experts, of GGUF dimensions [columns, out, experts], one below the other.
    pub fn experts(&mut self, name: &str, dims: [usize; 3]) -> Result<Weight, Error> {
        let rows = self.rows(name, &dims)?;
        Ok(self.weight(rows))
    }

    /// The matrix of these rows, for which the file is no longer needed.
    fn weight(&self, rows: Vec<Rows>) -> Weight {
        let weight = Weight::new(rows, self.precision.storage);
        self.base.forget();
        weight
    }

    /// The rows of matrix `name` of the given GGUF dimensions, in blocks where they stay so.
    fn rows(&mut self, name: &str, dims: &[usize]) -> Result<Vec<Rows>, Error> {
        let name = format!("{name}.weight");
        let tensor = self.find(&name, dims)?;
        self.used.insert(name);
        // A GPU dequantises faster than the numbers would reach it.
        if self.precision.blocks || self.device.is_cuda() {
            let in_blocks = |part: &StoredRows| Rows::blocks(part, self.device);
            let rows: Option<Vec<Rows>> = tensor.parts.iter().map(in_blocks).collect();
            match rows {
                Some(rows) if self.precision.blocks => return Ok(rows),
                Some(rows) => {
                    let dense = Weight::new(rows, self.precision.storage).dense();
                    return Ok(vec![Rows::Dense(dense)]);
                }
                None => {}
            }
        }
        let flat = self.read(&tensor)?;
        Ok(vec![Rows::Dense(flat.view([-1, dims[0] as i64]))])
    }

    /// [`Self::bias`] for matrices that may have one in this architecture.
    pub fn allowed_bias(&mut self, parts: &[(&str, usize)]) -> Result<Option<Tensor>, Error> {
        let allowed = |(name, _): &(&str, usize)| {
            let last = name.rsplit('.').next();
            last.is_some_and(|last| self.biases.contains(&last))
        };
        match parts.iter().all(allowed) {
            true => self.bias(parts),
            false => Ok(None),
        }
    }

    /// Biases [out] joined, zeros for those that are not there; `None` without any.
    pub fn bias(&mut self, parts: &[(&str, usize)]) -> Result<Option<Tensor>, Error> {
        if !parts.iter().any(|(name, _)| self.has(name, "bias")) {
            return Ok(None);
        }
        let mut biases = Vec::with_capacity(parts.len());
        for (name, rows) in parts {
            biases.push(match self.has(name, "bias") {
                true => self.tensor(&format!("{name}.bias"), &[*rows])?,
                false => Tensor::zeros([*rows as i64], (self.precision.storage, self.device)),
            });
        }
        Ok(Some(Tensor::cat(&biases, 0)))
    }

    /// Whether the base has the `what` (weight or bias) of matrix `name`.
    pub fn has(&self, name: &str, what: &str) -> bool {
        self.holds(&format!("{name}.{what}"))
    }

    /// A tensor of the given GGUF dimensions; torch's are the same in reverse.
    pub fn tensor(&mut self, name: &str, dims: &[usize]) -> Result<Tensor, Error> {
        let flat = self.read(&self.find(name, dims)?)?;
        self.used.insert(name.to_owned());
        let shape: Vec<i64> = dims.iter().rev().map(|&dim| dim as i64).collect();
        Ok(flat.view(shape.as_slice()))
    }

    /// Reads what `read` asks for in the format of the arithmetic.
    pub fn exactly<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let storage = std::mem::replace(&mut self.precision.storage, self.precision.math);
        let result = read(self);
        self.precision.storage = storage;
        result
    }

    /// A norm's weight [len], in the format of the arithmetic.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<Tensor, Error> {
        self.exactly(|reader| reader.tensor(name, &[len]))
    }

    /// Tensor `name`, which must have the given GGUF dimensions.
    fn find(&self, name: &str, dims: &[usize]) -> Result<BaseTensor<'a>, Error> {
        let Some(tensor) = self.base.tensor(name) else {
            return Err(Error::Tensor {
                path: self.base.path().to_path_buf(),
                name: self.base.describe(name),
                reason: "is missing".to_owned(),
            });
        };
        let ones = |dims: &[u64]| dims.iter().rev().skip_while(|dim| **dim == 1).count();
        let expected: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        let found = &tensor.dims;
        if found[..ones(found)] != expected[..ones(&expected)] {
            let (found, expected) = (tensor.shown(found), tensor.shown(&expected));
            let reason = format!("has shape {found:?}, expected {expected:?}");
            return Err(unusable(&tensor, reason));
        }
        Ok(tensor)
    }

    /// All numbers of a tensor, [product of its dimensions].
    fn read(&self, tensor: &BaseTensor) -> Result<Tensor, Error> {
        let numbers: u64 = tensor.dims.iter().product();
        let target = Tensor::empty([numbers as i64], (self.precision.storage, Device::Cpu));
        let filled = fill(&tensor.parts, &target);
        filled.map_err(|source| unusable(tensor, source.to_string()))?;
        Ok(target.to_device(self.device))
    }

    /// A tensor that llama.cpp would use and the reference model would not makes the two
    /// compute different things.
    pub fn refuse_unused(&self) -> Result<(), Error> {
        let names = self.base.tensor_names();
        match names.into_iter().find(|name| !self.used.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(Error::Tensor {
                path: self.base.path().to_path_buf(),
                name: self.base.describe(name),
                reason: "is not part of the model that the trainer knows".to_owned(),
            }),
        }
    }
}

fn unusable(tensor: &BaseTensor, reason: String) -> Error {
    Error::Tensor {
        path: tensor.file.to_path_buf(),
        name: tensor.name.to_owned(),
        reason,
    }
}
