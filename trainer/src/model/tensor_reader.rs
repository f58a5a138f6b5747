//! Reading the tensors of a base model through ggml's own dequantisation into tensors of the
//! wanted format, block by block, without a second copy.

use std::collections::HashSet;

use tch::{no_grad, Device, Tensor};

use super::linear::Linear;
use super::precision::Precision;
use crate::base::Base;
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
    pub fn matrix(&mut self, parts: &[(&str, usize)], columns: usize) -> Result<Tensor, Error> {
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        let flat = self.empty(rows * columns);
        let mut start = 0;
        for (name, rows) in parts {
            let len = rows * columns;
            let target = flat.narrow(0, start as i64, len as i64);
            self.read(&format!("{name}.weight"), &[columns, *rows], target)?;
            start += len;
        }
        Ok(flat.view([rows as i64, columns as i64]))
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
        let joined = self.empty(parts.iter().map(|(_, rows)| rows).sum());
        let mut start = 0;
        for (name, rows) in parts {
            let mut target = joined.narrow(0, start as i64, *rows as i64);
            match self.has(name, "bias") {
                true => self.read(&format!("{name}.bias"), &[*rows], target)?,
                false => no_grad(|| drop(target.zero_())),
            }
            start += rows;
        }
        Ok(Some(joined))
    }

    /// Whether the base has the `what` (weight or bias) of matrix `name`.
    pub fn has(&self, name: &str, what: &str) -> bool {
        self.holds(&format!("{name}.{what}"))
    }

    /// A tensor of the given GGUF dimensions; torch's are the same in reverse.
    pub fn tensor(&mut self, name: &str, dims: &[usize]) -> Result<Tensor, Error> {
        let flat = self.empty(dims.iter().product());
        self.read(name, dims, flat.shallow_clone())?;
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

    fn empty(&self, len: usize) -> Tensor {
        Tensor::empty([len as i64], (self.precision.storage, self.device))
    }

    /// A norm's weight [len], in the format of the arithmetic.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<Tensor, Error> {
        self.exactly(|reader| reader.tensor(name, &[len]))
    }

    /// Dequantises tensor `name` of the given GGUF dimensions into `target` [product].
    fn read(&mut self, name: &str, dims: &[usize], target: Tensor) -> Result<(), Error> {
        let Some(tensor) = self.base.tensor(name) else {
            return Err(Error::Tensor {
                path: self.base.path().to_path_buf(),
                name: self.base.describe(name),
                reason: "is missing".to_owned(),
            });
        };
        let error = |reason: String| Error::Tensor {
            path: tensor.file.to_path_buf(),
            name: tensor.name.to_owned(),
            reason,
        };
        let ones = |dims: &[u64]| dims.iter().rev().skip_while(|dim| **dim == 1).count();
        let expected: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        let found = &tensor.dims;
        if found[..ones(found)] != expected[..ones(&expected)] {
            let (found, expected) = (tensor.shown(found), tensor.shown(&expected));
            return Err(error(format!("has shape {found:?}, expected {expected:?}")));
        }
        let read = tensor.read(|start, values| {
            let mut part = target.narrow(0, start as i64, values.len() as i64);
            no_grad(|| part.copy_(&Tensor::from_slice(values)));
        });
        read.map_err(|source| error(source.to_string()))?;
        self.used.insert(name.to_owned());
        Ok(())
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
