//! Loading a base model: from memory-mapped files through ggml's own dequantisation
//! into tensors of the wanted format, block by block, without a second copy.

use std::collections::HashSet;
use std::path::Path;

use tch::{no_grad, Device, Tensor};

use crate::base::tensor::{open, Base};
use crate::model::config::{Config, ExpertCount};
use crate::model::feed_forward::FeedForward;
use crate::model::decoder::{Frequencies, Layer, Linear, Model, Precision};
use crate::Error;

impl Model {
    /// Opens, checks and loads a base model.
    ///
    /// # Errors
    /// As [`Config::read`]; [`Error::Tensor`] names a tensor that is missing, misshapen or
    /// not part of the reference model.
    pub fn load(path: &Path, precision: Precision, device: Device) -> Result<Model, Error> {
        Model::from_base(&*open(path)?, precision, device)
    }

    /// Loads the weights of an open base.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_base(
        base: &dyn Base,
        precision: Precision,
        device: Device,
    ) -> Result<Model, Error> {
        let config = Config::read(base)?;
        let mut loader = Loader {
            base,
            precision,
            device,
            biases: config.architecture.biases,
            used: HashSet::new(),
        };
        let d = config.n_embd;
        let token_embd = loader.matrix(&[("token_embd", config.n_vocab)], d)?;
        let output = match base.tensor("output.weight") {
            Some(_) => loader.linear("output", config.n_vocab, d)?,
            None => Linear {
                weight: token_embd.shallow_clone(),
                bias: loader.bias(&[("output", config.n_vocab)])?,
                parts: Vec::new(),
            },
        };
        let layers = (0..config.n_layer).map(|l| loader.layer(&config, l));
        let layers = layers.collect::<Result<Vec<Layer>, Error>>()?;
        let output_norm = loader.vector("output_norm.weight", d)?;
        let frequencies = loader.frequencies(&config)?;
        loader.refuse_unused()?;
        Ok(Model {
            config,
            precision,
            token_embd,
            layers,
            output_norm,
            output,
            frequencies,
        })
    }
}

/// Matrices of a layer with their rows, named without it.
fn part_names(parts: &[(&str, usize)]) -> Vec<(String, i64)> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let parts = parts.iter();
    parts
        .map(|(name, rows)| (last(name), *rows as i64))
        .collect()
}

struct Loader<'a> {
    base: &'a dyn Base,
    precision: Precision,
    device: Device,
    /// Which matrices may have a bias besides query, key and value.
    biases: &'static [&'static str],
    used: HashSet<String>,
}

impl Loader<'_> {
    fn layer(&mut self, config: &Config, l: usize) -> Result<Layer, Error> {
        let (row, d) = (config.architecture, config.n_embd);
        let name = |what: &str| format!("blk.{l}.{what}");
        let query = config.n_head * config.head_dim;
        let mut norm = |exists: bool, what: &str, width: usize| {
            let name = format!("blk.{l}.{what}.weight");
            exists.then(|| self.vector(&name, width)).transpose()
        };
        let q_norm = row.qk_norm.width(config.n_head, config.head_dim);
        let k_norm = row.qk_norm.width(config.n_head_kv, config.head_dim);
        Ok(Layer {
            attn_norm: norm(row.pre_norm, "attn_norm", d)?,
            attn_q_norm: norm(q_norm.is_some(), "attn_q_norm", q_norm.unwrap_or(0))?,
            attn_k_norm: norm(k_norm.is_some(), "attn_k_norm", k_norm.unwrap_or(0))?,
            attn_post_norm: norm(row.post_norm, "post_attention_norm", d)?,
            ffn_norm: norm(row.pre_norm, "ffn_norm", d)?,
            ffn_post_norm: norm(row.post_norm, "post_ffw_norm", d)?,
            attn_qkv: self.query_key_value(config, l)?,
            attn_output: self.linear(&name("attn_output"), d, query)?,
            ffn: match config.experts {
                None => self.feed_forward(config, l)?,
                Some(experts) => self.experts(config, experts, l)?,
            },
        })
    }

    /// Query, key and value heads: three matrices or one.
    fn query_key_value(&mut self, config: &Config, l: usize) -> Result<Linear, Error> {
        let name = |what: &str| format!("blk.{l}.{what}");
        let [query, key_value] = [config.n_head, config.n_head_kv].map(|n| n * config.head_dim);
        let joined = name("attn_qkv");
        let joined = [(joined.as_str(), query + 2 * key_value)];
        let (q, k, v) = (name("attn_q"), name("attn_k"), name("attn_v"));
        let parts = [(q.as_str(), query), (&k, key_value), (&v, key_value)];
        let one = self.has(joined[0].0, "weight");
        let stored: &[(&str, usize)] = if one { &joined } else { &parts };
        let weight = self.matrix(stored, config.n_embd)?;
        let bias = match one && self.has(joined[0].0, "bias") {
            true => self.bias(&joined)?,
            false => self.bias(&parts)?,
        };
        Ok(Linear {
            weight,
            bias,
            parts: part_names(stored),
        })
    }

    fn feed_forward(&mut self, config: &Config, l: usize) -> Result<FeedForward, Error> {
        let (d, f) = (config.n_embd, config.n_ff);
        let name = |what: &str| format!("blk.{l}.{what}");
        let (gate, up) = (name("ffn_gate"), name("ffn_up"));
        let (both, apart) = ([(up.as_str(), 2 * f)], [(gate.as_str(), f), (&up, f)]);
        let parts: &[(&str, usize)] = match config.architecture.fused_gate_up {
            true => &both,
            false => &apart,
        };
        Ok(FeedForward::Dense {
            gate_up: Linear {
                weight: self.matrix(parts, d)?,
                bias: self.allowed_bias(parts)?,
                parts: part_names(parts),
            },
            down: self.linear(&name("ffn_down"), d, f)?,
        })
    }

    fn experts(
        &mut self,
        config: &Config,
        experts: ExpertCount,
        l: usize,
    ) -> Result<FeedForward, Error> {
        let (d, f, e) = (config.n_embd, config.n_ff, experts.all);
        let name = |what: &str| format!("blk.{l}.{what}.weight");
        Ok(FeedForward::Experts {
            router: self.tensor(&name("ffn_gate_inp"), &[d, e])?,
            used: experts.used,
            gate: self.tensor(&name("ffn_gate_exps"), &[d, f, e])?,
            up: self.tensor(&name("ffn_up_exps"), &[d, f, e])?,
            down: self.tensor(&name("ffn_down_exps"), &[f, d, e])?,
        })
    }

    /// Matrix `name` [out, columns] and its bias, if it has and may have one.
    fn linear(&mut self, name: &str, out: usize, columns: usize) -> Result<Linear, Error> {
        Ok(Linear {
            weight: self.matrix(&[(name, out)], columns)?,
            bias: self.allowed_bias(&[(name, out)])?,
            parts: part_names(&[(name, out)]),
        })
    }

    /// Matrices [out, columns] joined along `out`, each given as (name, out).
    fn matrix(&mut self, parts: &[(&str, usize)], columns: usize) -> Result<Tensor, Error> {
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
    fn allowed_bias(&mut self, parts: &[(&str, usize)]) -> Result<Option<Tensor>, Error> {
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
    fn bias(&mut self, parts: &[(&str, usize)]) -> Result<Option<Tensor>, Error> {
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

    fn has(&self, name: &str, what: &str) -> bool {
        self.base.tensor(&format!("{name}.{what}")).is_some()
    }

    /// A tensor of the given GGUF dimensions; torch's are the same in reverse.
    fn tensor(&mut self, name: &str, dims: &[usize]) -> Result<Tensor, Error> {
        let flat = self.empty(dims.iter().product());
        self.read(name, dims, flat.shallow_clone())?;
        let shape: Vec<i64> = dims.iter().rev().map(|&dim| dim as i64).collect();
        Ok(flat.view(shape.as_slice()))
    }

    fn empty(&self, len: usize) -> Tensor {
        Tensor::empty([len as i64], (self.precision.storage, self.device))
    }

    /// A norm's weight [len], in the format of the arithmetic.
    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor, Error> {
        let tensor = Tensor::empty([len as i64], (self.precision.math, self.device));
        self.read(name, &[len], tensor.shallow_clone())?;
        Ok(tensor)
    }

    /// The angles of rotary embedding, divided by the factors that the file may hold.
    fn frequencies(&mut self, config: &Config) -> Result<Frequencies, Error> {
        let half = config.rope.dim / 2;
        let tensor = |rope: &crate::model::rope::Rope| {
            Tensor::from_slice(&rope.frequencies()).to_device(self.device)
        };
        let (plain, local) = (tensor(&config.rope), tensor(&config.local_rope));
        let mut divided = |name: &str| -> Result<Option<Tensor>, Error> {
            if !config.architecture.rope_factors || self.base.tensor(name).is_none() {
                return Ok(None);
            }
            Ok(Some(&plain / self.vector(name, half)?))
        };
        let any = divided("rope_freqs.weight")?;
        let long = divided("rope_factors_long.weight")?;
        let short = divided("rope_factors_short.weight")?;
        let context = config.rope.n_context;
        Ok(Frequencies {
            short: any.or(short).unwrap_or(plain),
            long,
            local,
            served_context: context,
            short_context: context,
        })
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
    fn refuse_unused(&self) -> Result<(), Error> {
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
