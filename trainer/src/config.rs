//! What the trainer must know about a base model, read from its GGUF metadata.

use jola_edit::gguf::{Gguf, GgufErrorKind, Value};

use crate::Error;

/// Which numbers of a head form the pairs that rotary embedding turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// (0, 1), (2, 3), …: ggml's "norm" order, in which GGUF stores the llama architecture.
    Adjacent,
}

/// An architecture that the reference model covers.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Pairs of rotary embedding.
    pub rope_pairs: RopePairs,
}

/// What can be trained. One row per architecture; the model itself is written once.
pub const ARCHITECTURES: &[Architecture] =
    &[Architecture { name: "llama", rope_pairs: RopePairs::Adjacent }];

/// Hyper-parameters of a base model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub architecture: String,
    /// Layers.
    pub n_layer: usize,
    /// d, width of the residual stream.
    pub n_embd: usize,
    /// H, query heads per layer.
    pub n_head: usize,
    /// K, key-value heads per layer; H is a multiple of it.
    pub n_head_kv: usize,
    /// D, width of one head.
    pub head_dim: usize,
    /// F, width of the feed-forward layer.
    pub n_ff: usize,
    /// V, size of the vocabulary.
    pub n_vocab: usize,
    /// Longest sequence that the base was trained for, in tokens.
    pub n_context: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_eps: f64,
    /// Base of the rotation's frequencies.
    pub rope_base: f64,
    /// Positions are divided by this (linear scaling; 1 without).
    pub rope_divisor: f64,
    /// Pairs of rotary embedding.
    pub rope_pairs: RopePairs,
}

impl Config {
    /// Reads and checks the metadata of a base model.
    ///
    /// # Errors
    /// [`Error::Architecture`] for one that is not in [`ARCHITECTURES`], [`Error::Base`] for
    /// what the reference model would compute differently from llama.cpp, and
    /// [`Error::Gguf`] for missing or ill-typed keys.
    pub fn read(gguf: &Gguf) -> Result<Config, Error> {
        let keys = Keys::new(gguf)?;
        let Some(architecture) = ARCHITECTURES.iter().find(|a| a.name == keys.architecture) else {
            return Err(Error::Architecture {
                path: gguf.path().to_path_buf(),
                found: keys.architecture.to_owned(),
            });
        };
        let n_embd = keys.count("embedding_length")?;
        let n_head = keys.count("attention.head_count")?;
        let head_dim = keys.optional_count("attention.key_length")?.unwrap_or(n_embd / n_head);
        let config = Config {
            architecture: architecture.name.to_owned(),
            n_layer: keys.count("block_count")?,
            n_embd,
            n_head,
            n_head_kv: keys.optional_count("attention.head_count_kv")?.unwrap_or(n_head),
            head_dim,
            n_ff: keys.count("feed_forward_length")?,
            n_vocab: vocabulary(gguf)?,
            n_context: keys.count("context_length")?,
            rms_eps: keys.float("attention.layer_norm_rms_epsilon", None)?,
            rope_base: keys.float("rope.freq_base", Some(10_000.0))?,
            rope_divisor: keys.rope_divisor()?,
            rope_pairs: architecture.rope_pairs,
        };
        let value_dim = keys.optional_count("attention.value_length")?.unwrap_or(head_dim);
        let rope_dim = keys.optional_count("rope.dimension_count")?.unwrap_or(head_dim);
        let refusals = [
            (config.n_head % config.n_head_kv != 0, "query heads are not a multiple of key-value heads"),
            (head_dim % 2 != 0, "an odd head width"),
            (value_dim != head_dim, "values of another width than keys"),
            (rope_dim != head_dim, "rotary embedding of a part of the head"),
            (keys.optional_count("expert_count")?.is_some(), "a mixture of experts"),
            (keys.has("attention.scale"), "its own attention scale"),
            (keys.has("logit_scale"), "a logit scale"),
            (keys.has("attention.sliding_window"), "sliding-window attention"),
        ];
        match refusals.iter().find(|(refuse, _)| *refuse) {
            Some((_, what)) => Err(keys.refuse(what)),
            None => Ok(config),
        }
    }
}

/// Size of the vocabulary: the list of tokens decides.
fn vocabulary(gguf: &Gguf) -> Result<usize, Error> {
    let length = |value: &Value| match value {
        Value::Array(tokens) => Some(tokens.len()),
        _ => None,
    };
    let tokens = gguf.metadata().required("tokenizer.ggml.tokens", "array", length);
    tokens.map_err(|kind| gguf.error(kind).into())
}

/// Metadata under the architecture's prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn new(gguf: &'a Gguf) -> Result<Keys<'a>, Error> {
        let architecture = gguf.metadata().str("general.architecture");
        let architecture = architecture.map_err(|kind| gguf.error(kind))?;
        Ok(Keys { gguf, architecture })
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn has(&self, name: &str) -> bool {
        self.gguf.metadata().get(&self.key(name)).is_some()
    }

    /// A positive count, or the one value of an array that repeats it for each layer.
    fn optional_count(&self, name: &str) -> Result<Option<usize>, Error> {
        let key = self.key(name);
        let count = |value: &Value| match value {
            Value::Array(array) => {
                let counts = array.to_u32s()?;
                let first = *counts.first()?;
                counts.iter().all(|&c| c == first).then_some(first as u64)
            }
            other => other.as_u64(),
        };
        let expected = "one count for all layers";
        let value = self.gguf.metadata().optional(&key, expected, count);
        match value.map_err(|kind| self.gguf.error(kind))? {
            Some(0) => Err(self.gguf.error(bad_value(&key, "a positive count", "0")).into()),
            other => Ok(other.map(|count| count as usize)),
        }
    }

    fn count(&self, name: &str) -> Result<usize, Error> {
        self.optional_count(name)?.ok_or_else(|| {
            self.gguf.error(GgufErrorKind::MissingKey { key: self.key(name) }).into()
        })
    }

    /// A positive float32; `default` when the key may be absent.
    fn float(&self, name: &str, default: Option<f64>) -> Result<f64, Error> {
        let key = self.key(name);
        let metadata = self.gguf.metadata();
        let value = match default {
            None => metadata.required(&key, "f32", Value::as_f32).map(f64::from),
            Some(default) => metadata
                .optional(&key, "f32", Value::as_f32)
                .map(|value| value.map_or(default, f64::from)),
        };
        let value = value.map_err(|kind| self.gguf.error(kind))?;
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            let kind = bad_value(&key, "a positive number", &value.to_string());
            Err(self.gguf.error(kind).into())
        }
    }

    fn rope_divisor(&self) -> Result<f64, Error> {
        let kind = self.gguf.metadata().optional(
            &self.key("rope.scaling.type"),
            "string",
            Value::as_str,
        );
        match kind.map_err(|kind| self.gguf.error(kind))? {
            None | Some("none") => Ok(1.0),
            Some("linear") => self.float("rope.scaling.factor", Some(1.0)),
            Some(other) => Err(self.refuse(&format!("rope scaling of type {other}"))),
        }
    }

    fn refuse(&self, what: &str) -> Error {
        Error::Base { path: self.gguf.path().to_path_buf(), what: what.to_owned() }
    }
}

fn bad_value(key: &str, expected: &str, found: &str) -> GgufErrorKind {
    GgufErrorKind::KeyValue {
        key: key.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}
