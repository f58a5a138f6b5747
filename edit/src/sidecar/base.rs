//! Whether a sidecar fits a base model.

use std::collections::BTreeMap;

use super::{HeadCount, LayerEdit, Sidecar, MAX_BLOCK_COUNT, MAX_MODEL_LEN, MAX_ROW_LEN};
use crate::gguf::{Gguf, GgufError, GgufErrorKind, Metadata, Value};

/// What of a base model decides whether an edit fits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseShape {
    /// What `general.architecture` says, as `llama`.
    pub architecture: String,
    /// Layers, with and without attention.
    pub block_count: u32,
    /// Query heads of each layer, 0 for layers without attention: `block_count` elements.
    pub head_count: Vec<u32>,
    /// Width of one head's output.
    pub head_dim: u32,
}

/// How a sidecar and a base model differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseMismatch {
    /// They are of different architectures.
    #[error("the edit is for architecture `{expected}`, the model is `{found}`")]
    Architecture {
        /// What the sidecar was made for.
        expected: String,
        /// What the model has.
        found: String,
    },
    /// They have different numbers of layers.
    #[error("the edit is for {expected} layers, the model has {found}")]
    BlockCount {
        /// What the sidecar was made for.
        expected: u32,
        /// What the model has.
        found: u32,
    },
    /// A layer that is edited has no attention heads in the model.
    #[error("the edit changes layer {layer}, which has no attention heads in the model")]
    NoAttention {
        /// The layer, counted from 0.
        layer: u32,
    },
    /// A layer has different numbers of heads.
    #[error("the edit is for {expected} heads in layer {layer}, the model has {found}")]
    HeadCount {
        /// The layer, counted from 0.
        layer: u32,
        /// What the sidecar was made for.
        expected: u32,
        /// What the model has.
        found: u32,
    },
    /// Their heads differ in width.
    #[error("the edit is for heads of width {expected}, the model's have {found}")]
    HeadDim {
        /// What the sidecar was made for.
        expected: u32,
        /// What the model has.
        found: u32,
    },
}

impl Sidecar {
    /// Checks that the edit fits a base model.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_base(&self, base: &BaseShape) -> Result<(), BaseMismatch> {
        if self.architecture != base.architecture {
            return Err(BaseMismatch::Architecture {
                expected: self.architecture.clone(),
                found: base.architecture.clone(),
            });
        }
        let found = base.head_count.len() as u64;
        if self.block_count != base.block_count || u64::from(self.block_count) != found {
            return Err(BaseMismatch::BlockCount {
                expected: self.block_count,
                found: base.block_count,
            });
        }
        for (layer, &found) in (0..self.block_count).zip(&base.head_count) {
            if found == 0 && self.layers.contains_key(&layer) {
                return Err(BaseMismatch::NoAttention { layer });
            }
            let expected = self.head_count.at(layer).unwrap_or(0);
            if expected != found {
                return Err(BaseMismatch::HeadCount {
                    layer,
                    expected,
                    found,
                });
            }
        }
        if self.head_dim != base.head_dim {
            return Err(BaseMismatch::HeadDim {
                expected: self.head_dim,
                found: base.head_dim,
            });
        }
        Ok(())
    }

    /// The shape of the base model that the edit is for.
    pub fn base_shape(&self) -> BaseShape {
        let counts = (0..self.block_count).map(|layer| self.head_count.at(layer).unwrap_or(0));
        BaseShape {
            architecture: self.architecture.clone(),
            block_count: self.block_count,
            head_count: counts.collect(),
            head_dim: self.head_dim,
        }
    }
}

impl BaseShape {
    /// Reads the shape from a base model's metadata.
    ///
    /// The head width is `<arch>.attention.value_length_mla` for models with latent
    /// attention, else `<arch>.attention.value_length`, else `<arch>.embedding_length`
    /// divided by the heads of the first layer that has any: llama.cpp's own rules. A layer
    /// without key-value heads has no attention, whatever its number of query heads.
    ///
    /// # Errors
    /// `MissingKey`, `KeyType`, `Limit`, or `KeyValue` if the numbers contradict each other or if
    /// layers differ in head width, which format version 1 cannot express.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, GgufError> {
        Self::from_metadata(gguf.metadata()).map_err(|kind| gguf.error(kind))
    }

    /// As [`Self::from_gguf`], from metadata alone.
    ///
    /// # Errors
    /// As [`Self::from_gguf`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, GgufErrorKind> {
        let architecture = metadata.str("general.architecture")?;
        let key = |name: &str| format!("{architecture}.{name}");
        let block_count = metadata.u32(&key("block_count"))?;
        GgufErrorKind::check_limit(
            format_args!("{}", key("block_count")),
            block_count.into(),
            MAX_BLOCK_COUNT.into(),
        )?;
        let counts = |name: &str| read_counts(metadata, &key(name), block_count);
        let Some(mut head_count) = counts("attention.head_count")? else {
            let key = key("attention.head_count");
            return Err(GgufErrorKind::MissingKey { key });
        };
        let key_value = counts("attention.head_count_kv")?;
        let head_dim = read_head_dim(metadata, key, &head_count)?;
        // What a sidecar could not be for is refused before anything is made in its size.
        let values = |heads: u64| heads.saturating_mul(head_dim.into());
        let widest = head_count.iter().copied().max().unwrap_or(0);
        GgufErrorKind::check_limit(
            format_args!("width of a layer's head outputs"),
            values(widest.into()),
            MAX_ROW_LEN,
        )?;
        GgufErrorKind::check_limit(
            format_args!("width of all layers' head outputs"),
            values(head_count.iter().map(|count| u64::from(*count)).sum()),
            MAX_MODEL_LEN,
        )?;
        for (heads, key_value) in head_count.iter_mut().zip(key_value.into_iter().flatten()) {
            if key_value == 0 {
                *heads = 0;
            }
        }
        Ok(Self {
            architecture: architecture.to_owned(),
            block_count,
            head_count,
            head_dim,
        })
    }

    /// A sidecar for this base that says nothing but what `layers` hold, found by `method`.
    pub fn sidecar(&self, method: &str, layers: BTreeMap<u32, LayerEdit>) -> Sidecar {
        Sidecar {
            architecture: self.architecture.clone(),
            name: String::new(),
            base_model_name: String::new(),
            block_count: self.block_count,
            head_count: self.to_head_count(),
            head_dim: self.head_dim,
            method: method.to_owned(),
            base_sha256: None,
            train: Metadata::new(),
            layers,
            warnings: Vec::new(),
        }
    }

    /// The head counts as a sidecar stores them: one number if all layers agree.
    pub fn to_head_count(&self) -> HeadCount {
        match self.head_count.split_first() {
            Some((first, rest)) if rest.iter().all(|count| count == first) => {
                HeadCount::Uniform(*first)
            }
            _ => HeadCount::PerLayer(self.head_count.clone()),
        }
    }
}

/// Heads of each layer from one number or an array; `None` if the key is absent.
fn read_counts(
    metadata: &Metadata,
    key: &str,
    block_count: u32,
) -> Result<Option<Vec<u32>>, GgufErrorKind> {
    let counts = metadata.optional(key, "u32 or array of u32", |value| match value {
        Value::U32(count) => Some(HeadCount::Uniform(*count)),
        Value::Array(counts) => counts.to_u32s().map(HeadCount::PerLayer),
        _ => None,
    })?;
    match counts {
        None => Ok(None),
        Some(HeadCount::Uniform(count)) => Ok(Some(vec![count; block_count as usize])),
        Some(HeadCount::PerLayer(counts)) if counts.len() == block_count as usize => {
            Ok(Some(counts))
        }
        Some(HeadCount::PerLayer(counts)) => Err(GgufErrorKind::KeyValue {
            key: key.to_owned(),
            expected: format!("one count for each of {block_count} layers"),
            found: format!("an array of {}", counts.len()),
        }),
    }
}

/// Width of one head's output; `key` turns a name into the architecture's key.
fn read_head_dim(
    metadata: &Metadata,
    key: impl Fn(&str) -> String,
    head_count: &[u32],
) -> Result<u32, GgufErrorKind> {
    let optional = |name: &str| metadata.optional(&key(name), "u32", Value::as_u32);
    if let Some(width) = optional("attention.value_length_mla")? {
        return Ok(width);
    }
    let width = match optional("attention.value_length")? {
        Some(width) => width,
        None => {
            let embedding = metadata.u32(&key("embedding_length"))?;
            let heads = head_count.iter().find(|&&count| count > 0);
            embedding / heads.copied().unwrap_or(1)
        }
    };
    match optional("attention.value_length_swa")? {
        Some(other) if other != width => Err(GgufErrorKind::KeyValue {
            key: key("attention.value_length_swa"),
            expected: format!("{width}, the head width of the other layers"),
            found: other.to_string(),
        }),
        _ => Ok(width),
    }
}
