//! From a GGUF file to a [`Sidecar`].

use std::collections::BTreeMap;
use std::path::Path;

use super::{keys, HeadCount, HeadVectors, Operation, Sidecar, SidecarError, SidecarErrorKind};
use super::{ADAPTER_TYPE, FORMAT_VERSION, GENERAL_TYPE};
use crate::gguf::{self, Array, GgmlType, Gguf, GgufError, Metadata, Role, Tensor, Value};

impl Sidecar {
    /// Reads and checks a file.
    ///
    /// ```no_run
    /// use jola_edit::Sidecar;
    ///
    /// # fn main() -> Result<(), jola_edit::SidecarError> {
    /// let sidecar = Sidecar::read("edit.gguf")?;
    /// let stats = sidecar.stats();
    /// println!("{}: {} of {} heads", sidecar.name, stats.edited_heads, stats.heads);
    /// // What is odd about the file, but no reason to refuse it.
    /// for warning in &sidecar.warnings {
    ///     eprintln!("warning: {warning}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Any [`SidecarErrorKind`] but `EmptyLayer`, with the path.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, SidecarError> {
        let path = path.as_ref();
        let open = || {
            let gguf = Gguf::open(path)?;
            gguf.expect(Role::Sidecar)?;
            Ok(gguf)
        };
        let gguf = open().map_err(|error: GgufError| SidecarError::new(path, *error.kind))?;
        Self::from_gguf(&gguf)
    }

    /// Reads and checks an open file.
    ///
    /// # Errors
    /// As [`Sidecar::read`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, SidecarError> {
        read(gguf).map_err(|kind| SidecarError::new(gguf.path(), kind))
    }
}

fn read(gguf: &Gguf) -> Result<Sidecar, SidecarErrorKind> {
    let mut sidecar = read_metadata(gguf.metadata())?;
    sidecar.check_header()?;
    for ((layer, operation), pair) in pair_tensors(gguf, &sidecar)? {
        let vectors = read_vectors(layer, operation, pair, &sidecar)?;
        let edit = sidecar.layers.entry(layer).or_default();
        match operation {
            Operation::Mul => edit.mul = Some(vectors),
            Operation::Add => edit.add = Some(vectors),
        }
    }
    match gguf.trailing_bytes() {
        0 => sidecar.validate()?,
        found => return Err(SidecarErrorKind::TrailingBytes { found }),
    }
    Ok(sidecar)
}

fn read_metadata(metadata: &Metadata) -> Result<Sidecar, SidecarErrorKind> {
    let general_type = metadata.str(keys::GENERAL_TYPE)?;
    if general_type != GENERAL_TYPE {
        return Err(SidecarErrorKind::GeneralType {
            found: general_type.to_owned(),
        });
    }
    let adapter_type = metadata.str(keys::ADAPTER_TYPE)?;
    if adapter_type != ADAPTER_TYPE {
        return Err(SidecarErrorKind::AdapterType {
            found: adapter_type.to_owned(),
        });
    }
    match metadata.u32(keys::FORMAT_VERSION)? {
        FORMAT_VERSION => {}
        0 => {
            return Err(SidecarErrorKind::Zero {
                key: keys::FORMAT_VERSION,
            })
        }
        found => {
            return Err(SidecarErrorKind::NewerFormat {
                found,
                supported: FORMAT_VERSION,
            })
        }
    }
    let (train, warnings) = read_extras(metadata)?;
    Ok(Sidecar {
        architecture: metadata.str(keys::ARCHITECTURE)?.to_owned(),
        name: metadata.str(keys::NAME)?.to_owned(),
        base_model_name: metadata.str(keys::BASE_MODEL_NAME)?.to_owned(),
        block_count: metadata.u32(keys::BLOCK_COUNT)?,
        head_count: metadata.required(keys::HEAD_COUNT, "u32 or array of u32", head_count)?,
        head_dim: metadata.u32(keys::HEAD_DIM)?,
        method: metadata.str(keys::METHOD)?.to_owned(),
        base_sha256: metadata
            .optional(keys::BASE_SHA256, "string", Value::as_str)?
            .map(str::to_owned),
        train,
        layers: BTreeMap::new(),
        warnings,
    })
}

fn head_count(value: &Value) -> Option<HeadCount> {
    match value {
        Value::U32(count) => Some(HeadCount::Uniform(*count)),
        Value::Array(Array::U32(counts)) => Some(HeadCount::PerLayer(counts.clone())),
        _ => None,
    }
}

/// Provenance entries, and warnings about keys under `jola.` that mean nothing here.
fn read_extras(metadata: &Metadata) -> Result<(Metadata, Vec<String>), SidecarErrorKind> {
    let mut train = Metadata::new();
    let mut warnings = Vec::new();
    for (key, value) in metadata.iter() {
        match key.strip_prefix(keys::TRAIN_PREFIX) {
            Some(name) if !name.is_empty() => train.insert(name, value.clone())?,
            _ if key.starts_with(keys::JOLA_PREFIX) && !keys::KNOWN_JOLA.contains(&key) => {
                warnings.push(format!("unknown metadata key `{key}` is ignored"));
            }
            _ => {}
        }
    }
    Ok((train, warnings))
}

/// The two tensors of one operation on one layer.
#[derive(Default)]
struct Pair<'a> {
    vectors: Option<Tensor<'a>>,
    heads: Option<Tensor<'a>>,
}

fn pair_tensors<'a>(
    gguf: &'a Gguf,
    sidecar: &Sidecar,
) -> Result<BTreeMap<(u32, Operation), Pair<'a>>, SidecarErrorKind> {
    let mut pairs: BTreeMap<(u32, Operation), Pair<'_>> = BTreeMap::new();
    for tensor in gguf.iter() {
        let Some((layer, operation, is_heads)) = parse_name(&tensor.info.name) else {
            return Err(SidecarErrorKind::UnknownTensor {
                tensor: tensor.info.name.clone(),
            });
        };
        sidecar.check_layer(layer)?;
        // `check_layer` has compared it with the u32 block count.
        let pair = pairs.entry((layer as u32, operation)).or_default();
        if is_heads {
            pair.heads = Some(tensor);
        } else {
            pair.vectors = Some(tensor);
        }
    }
    Ok(pairs)
}

/// Layer, operation and whether it holds head numbers; `None` for names the format does not define.
fn parse_name(name: &str) -> Option<(u64, Operation, bool)> {
    let (number, role) = name.strip_prefix("blk.")?.split_once(".attn_output.")?;
    let layer: u64 = number.parse().ok()?;
    if layer.to_string() != number {
        return None;
    }
    Some(match role {
        "jola_mul" => (layer, Operation::Mul, false),
        "jola_mul_heads" => (layer, Operation::Mul, true),
        "jola_add" => (layer, Operation::Add, false),
        "jola_add_heads" => (layer, Operation::Add, true),
        _ => return None,
    })
}

fn read_vectors(
    layer: u32,
    operation: Operation,
    pair: Pair<'_>,
    sidecar: &Sidecar,
) -> Result<HeadVectors, SidecarErrorKind> {
    let (vectors, heads) = match (pair.vectors, pair.heads) {
        (Some(vectors), Some(heads)) => (vectors, heads),
        (Some(_), None) => {
            return Err(SidecarErrorKind::VectorsWithoutHeads {
                tensor: operation.vectors_name(layer),
                missing: operation.heads_name(layer),
            })
        }
        (None, _) => {
            return Err(SidecarErrorKind::HeadsWithoutVectors {
                tensor: operation.heads_name(layer),
                missing: operation.vectors_name(layer),
            })
        }
    };
    let values = vectors
        .to_f32s()
        .ok_or_else(|| wrong_type(&vectors, gguf::F32))?;
    let numbers = heads
        .to_i32s()
        .ok_or_else(|| wrong_type(&heads, gguf::I32))?;
    let k = heads.info.padded_dims()[0];
    check_shape(&heads, &[k])?;
    if k == 0 {
        return Err(SidecarErrorKind::NoHeads {
            tensor: operation.heads_name(layer),
        });
    }
    check_shape(&vectors, &[sidecar.head_dim.into(), k])?;
    let heads = numbers
        .into_iter()
        .map(|head| {
            u32::try_from(head).map_err(|_| SidecarErrorKind::HeadOutOfRange {
                tensor: operation.heads_name(layer),
                head: head.into(),
                head_count: sidecar.head_count.at(layer).unwrap_or(0),
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(HeadVectors { heads, values })
}

fn wrong_type(tensor: &Tensor<'_>, expected: u32) -> SidecarErrorKind {
    SidecarErrorKind::TensorType {
        tensor: tensor.info.name.clone(),
        expected: GgmlType::from_id(expected).map_or("unknown", |ty| ty.name),
        found: tensor.info.type_name(),
    }
}

/// Compares shapes as ggml does: dimensions of 1 at the end have no meaning.
fn check_shape(tensor: &Tensor<'_>, expected: &[u64]) -> Result<(), SidecarErrorKind> {
    let mut padded = [1; 4];
    for (dim, &value) in padded.iter_mut().zip(expected) {
        *dim = value;
    }
    if tensor.info.padded_dims() == padded {
        return Ok(());
    }
    Err(SidecarErrorKind::Shape {
        tensor: tensor.info.name.clone(),
        expected: expected.to_vec(),
        found: tensor.info.dims.clone(),
    })
}
