//! Which tensors change, to which type, and the writer that changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use jola_edit::gguf::{
    self, GgmlType, Gguf, GgufError, GgufWriter, Metadata, Splits, Tensor, TensorData,
};
use jola_edit::sidecar::BaseShape;
use jola_edit::{EditSet, Folded};

use super::architectures::{self, Obstacle};
use super::{projection, BakeError};
use crate::ggml;

/// Type of the changed output projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutType {
    /// The smallest of the base's own type, q8_0, f16 and f32 that is not smaller than the
    /// base's and stays close to the live edit.
    Auto,
    /// Each tensor's own type.
    Keep,
    /// 8-bit blocks.
    Q8_0,
    /// 16-bit floats.
    F16,
    /// bfloat16, a 32-bit float without its lower half.
    Bf16,
    /// 32-bit floats.
    F32,
}

impl OutType {
    /// ggml's id, `None` where each tensor has its own.
    fn id(self) -> Option<u32> {
        match self {
            Self::Auto | Self::Keep => None,
            Self::Q8_0 => Some(llama_cpp_sys_2::GGML_TYPE_Q8_0),
            Self::F16 => Some(gguf::F16),
            Self::Bf16 => Some(gguf::BF16),
            Self::F32 => Some(gguf::F32),
        }
    }
}

impl fmt::Display for OutType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Keep => "the base's type",
            Self::Q8_0 => "q8_0",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        })
    }
}

/// A tensor that differs from the base's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Name of the tensor.
    pub tensor: String,
    /// ggml's name of its type in the base, `None` if it is new.
    pub from: Option<&'static str>,
    /// ggml's name of its type in the result.
    pub to: &'static str,
}

/// What baking an edit into a model changes.
#[derive(Debug)]
pub struct Plan<'a> {
    base: &'a Splits,
    layers: Vec<Layer<'a>>,
}

/// One edited layer.
#[derive(Debug)]
struct Layer<'a> {
    index: u32,
    /// W_O `[n_embd, width]`, in GGUF's order `[width, n_embd]`.
    weight: Tensor<'a>,
    /// Factors of its columns, `[width]`.
    mul: Option<&'a [f32]>,
    /// Offsets of its input, `[width]`.
    add: Option<&'a [f32]>,
    /// The bias there is, `[n_embd]`.
    bias: Option<Tensor<'a>>,
    /// What llama.cpp multiplies W_O's output with, before the bias: 1 in nearly all files.
    scale: f32,
}

/// The types of the changed weights, by layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub outtype: OutType,
    types: BTreeMap<u32, u32>,
}

fn weight_name(layer: u32) -> String {
    format!("blk.{layer}.attn_output.weight")
}

fn bias_name(layer: u32) -> String {
    format!("blk.{layer}.attn_output.bias")
}

impl<'a> Plan<'a> {
    /// Checks that the edits can become weights of the base.
    ///
    /// # Errors
    /// [`BakeError::Nothing`], [`BakeError::Folded`], [`BakeError::Architecture`],
    /// [`BakeError::Part`], [`BakeError::MissingTensor`] and [`BakeError::Shape`].
    pub fn new(base: &'a Splits, shape: &BaseShape, edits: &'a EditSet) -> Result<Self, BakeError> {
        if edits.is_empty() {
            return Err(BakeError::Nothing);
        }
        let folded = Folded::refuse(|key| base.metadata().get(key).is_some());
        folded.map_err(|error| BakeError::Folded {
            file: base.first().path().to_owned(),
            error,
        })?;
        let name = &shape.architecture;
        let architecture = architectures::find(name).ok_or_else(|| BakeError::Architecture {
            architecture: name.clone(),
        })?;
        let refuse = |part, obstacle: Option<Obstacle>, layers: Vec<u32>| match obstacle {
            Some(obstacle) if !layers.is_empty() => Err(BakeError::Part {
                part,
                layers,
                architecture: name.clone(),
                obstacle,
            }),
            _ => Ok(()),
        };
        let layers = || edits.layers.iter();
        let scaled = layers().filter(|(_, edit)| edit.factor().is_some());
        let offset = layers().filter(|(_, edit)| edit.add().is_some());
        refuse(
            "scales",
            architecture.scale_obstacle(),
            scaled.map(|(l, _)| *l).collect(),
        )?;
        refuse(
            "offsets",
            architecture.offset_obstacle(),
            offset.map(|(l, _)| *l).collect(),
        )?;
        let layers = layers()
            .map(|(&index, edit)| Layer::new(base, index, edit.factor(), edit.add()))
            .collect::<Result<_, _>>()?;
        Ok(Self { base, layers })
    }

    /// The candidate of a type that was asked for.
    pub(super) fn fixed(&self, outtype: OutType) -> Result<Candidate, BakeError> {
        self.candidate(outtype, false)
    }

    /// The types to try in turn when they are to be chosen.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for outtype in [OutType::Keep, OutType::Q8_0, OutType::F16, OutType::F32] {
            // A type that some tensor cannot have is no candidate; f32 always is one.
            let Ok(candidate) = self.candidate(outtype, true) else {
                continue;
            };
            if candidates
                .iter()
                .all(|other| other.types != candidate.types)
            {
                candidates.push(candidate);
            }
        }
        candidates
    }

    /// All changed weights as `outtype`; `at_least`: or as their own type, if that is larger.
    fn candidate(&self, outtype: OutType, at_least: bool) -> Result<Candidate, BakeError> {
        let mut types = BTreeMap::new();
        for layer in self.layers.iter().filter(|layer| layer.mul.is_some()) {
            let own = layer.weight.info.ty;
            let id = match outtype.id() {
                Some(id) if at_least && bits(id) <= bits(own) => own,
                Some(id) => id,
                None => own,
            };
            layer.check_type(id).map_err(|reason| BakeError::OutType {
                tensor: layer.weight.info.name.clone(),
                outtype,
                reason,
            })?;
            types.insert(layer.index, id);
        }
        Ok(Candidate { outtype, types })
    }

    /// What a candidate changes.
    pub(super) fn changed(&self, candidate: &Candidate) -> Vec<Changed> {
        let mut changed = Vec::new();
        for layer in &self.layers {
            if let Some(&id) = candidate.types.get(&layer.index) {
                changed.push(Changed {
                    tensor: layer.weight.info.name.clone(),
                    from: Some(layer.weight.info.type_name()),
                    to: type_name(id),
                });
            }
            if layer.add.is_some() {
                changed.push(Changed {
                    tensor: bias_name(layer.index),
                    from: layer.bias.map(|bias| bias.info.type_name()),
                    to: type_name(gguf::F32),
                });
            }
        }
        changed
    }

    /// A writer of the whole model: the base's tensors in their order, a new bias behind its
    /// weight. Everything is streamed from the base's memory map.
    pub(super) fn writer(
        &self,
        candidate: &Candidate,
        metadata: Metadata,
    ) -> Result<GgufWriter<'_>, GgufError> {
        let at_base = |kind| self.base.first().error(kind);
        let weights: BTreeMap<String, &Layer> = self
            .layers
            .iter()
            .map(|l| (weight_name(l.index), l))
            .collect();
        let biases: BTreeMap<String, &Layer> = self
            .layers
            .iter()
            .filter(|layer| layer.add.is_some() && layer.bias.is_some())
            .map(|layer| (bias_name(layer.index), layer))
            .collect();
        let mut writer = GgufWriter::new(metadata).map_err(at_base)?;
        for tensor in self.base.iter() {
            let info = tensor.info;
            let layer = weights.get(&info.name).copied();
            let (ty, data) = match (layer, biases.get(&info.name).copied()) {
                (Some(layer), _) => match (layer.mul, candidate.types.get(&layer.index)) {
                    (Some(mul), Some(&id)) => (id, layer.scaled(mul, id)),
                    _ => (info.ty, tensor.bytes.into()),
                },
                (None, Some(layer)) => (gguf::F32, layer.offset_bias()),
                (None, None) => (info.ty, tensor.bytes.into()),
            };
            let name = info.name.as_str();
            writer
                .add_tensor(name, ty, &info.dims, data)
                .map_err(at_base)?;
            if let Some(layer) = layer.filter(|l| l.add.is_some() && l.bias.is_none()) {
                let dims = [layer.n_embd()];
                let bias = writer.add_tensor(
                    bias_name(layer.index),
                    gguf::F32,
                    &dims,
                    layer.offset_bias(),
                );
                bias.map_err(at_base)?;
            }
        }
        Ok(writer)
    }
}

impl Plan<'_> {
    /// The model that is baked into.
    pub(super) fn base(&self) -> &Splits {
        self.base
    }

    /// The names of all tensors that candidates change or add.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let weights = self.layers.iter().map(|layer| weight_name(layer.index));
        let offset = self.layers.iter().filter(|layer| layer.add.is_some());
        weights
            .chain(offset.map(|layer| bias_name(layer.index)))
            .collect()
    }

    /// Name, dimensions and data of those tensors as 32-bit floats: with a candidate's
    /// rounding, or as they are in the base.
    pub(super) fn float_tensors<'b>(
        &'b self,
        candidate: Option<&Candidate>,
    ) -> Vec<(String, Vec<u64>, TensorData<'b>)> {
        let mut tensors = Vec::new();
        for layer in &self.layers {
            let id = candidate.and_then(|c| c.types.get(&layer.index).copied());
            let weight = layer.weight;
            let data = match (layer.mul, id) {
                (Some(mul), Some(id)) => TensorData::stream(move |out| {
                    let rounded = projection::scale_columns_rounded(weight, mul, id, out);
                    rounded.map_err(io::Error::other)
                }),
                _ => floats(weight),
            };
            tensors.push((weight_name(layer.index), weight.info.dims.clone(), data));
            if layer.add.is_some() {
                let data = match (candidate, layer.bias) {
                    (Some(_), _) => layer.offset_bias(),
                    (None, Some(bias)) => floats(bias),
                    (None, None) => vec![0u8; 4 * layer.n_embd() as usize].into(),
                };
                tensors.push((bias_name(layer.index), vec![layer.n_embd()], data));
            }
        }
        tensors
    }
}

/// A tensor's values as 32-bit floats.
fn floats(tensor: Tensor<'_>) -> TensorData<'_> {
    TensorData::stream(move |out| {
        projection::convert(tensor, gguf::F32, out).map_err(io::Error::other)
    })
}

impl<'a> Layer<'a> {
    fn new(
        base: &'a Splits,
        index: u32,
        mul: Option<&'a [f32]>,
        add: Option<&'a [f32]>,
    ) -> Result<Self, BakeError> {
        let name = weight_name(index);
        let Some((file, weight)) = base.tensor(&name) else {
            return Err(BakeError::MissingTensor {
                file: base.first().path().into(),
                tensor: name,
            });
        };
        let width = mul.or(add).map_or(0, <[f32]>::len) as u64;
        let [_, n_embd, _, _] = weight.info.padded_dims();
        check_dims(file, weight, &[width, n_embd])?;
        let bias = base.tensor(&bias_name(index));
        if let Some((file, bias)) = bias {
            check_dims(file, bias, &[n_embd])?;
        }
        let mut scale = 1.0;
        if let Some((file, tensor)) = base.tensor(&format!("blk.{index}.attn_output.scale")) {
            check_dims(file, tensor, &[1])?;
            let mut value = [0.0];
            ggml::dequantize(tensor.info.ty, tensor.bytes, &mut value)?;
            [scale] = value;
        }
        Ok(Self {
            index,
            weight,
            mul,
            add,
            bias: bias.map(|(_, tensor)| tensor),
            scale,
        })
    }

    fn n_embd(&self) -> u64 {
        self.weight.info.padded_dims()[1]
    }

    /// Whether the weight can be written as type `id`.
    fn check_type(&self, id: u32) -> Result<(), String> {
        if let Some(obstacle) = ggml::quantize_obstacle(id) {
            return Err(obstacle.to_owned());
        }
        let [row, ..] = self.weight.info.padded_dims();
        match GgmlType::from_id(id) {
            Some(ty) if row % ty.block != 0 => Err(format!(
                "its rows of {row} are not whole blocks of {}",
                ty.block
            )),
            _ => Ok(()),
        }
    }

    /// W_O·diag(mul) as type `id`.
    fn scaled<'b>(&'b self, mul: &'b [f32], id: u32) -> TensorData<'b> {
        TensorData::stream(move |out| {
            projection::scale_columns(self.weight, mul, id, out).map_err(io::Error::other)
        })
    }

    /// The bias there is plus W_O·add.
    fn offset_bias(&self) -> TensorData<'_> {
        TensorData::stream(move |out| {
            let add = self.add.unwrap_or_default();
            let bias = projection::bias(self.weight, add, self.scale, self.bias);
            let bias = bias.map_err(io::Error::other)?;
            projection::write_floats(&bias, out)
        })
    }
}

/// An error unless the tensor has these dimensions; those of 1 at the end have no meaning.
fn check_dims(file: &Gguf, tensor: Tensor<'_>, expected: &[u64]) -> Result<(), BakeError> {
    let mut padded = [1; 4];
    padded[..expected.len()].copy_from_slice(expected);
    if tensor.info.padded_dims() == padded {
        return Ok(());
    }
    Err(BakeError::Shape {
        file: file.path().into(),
        tensor: tensor.info.name.clone(),
        expected: expected.to_vec(),
        found: tensor.info.dims.clone(),
    })
}

/// Bits per value, times 1000.
fn bits(id: u32) -> u64 {
    GgmlType::from_id(id).map_or(u64::MAX, |ty| 8000 * ty.bytes / ty.block)
}

fn type_name(id: u32) -> &'static str {
    GgmlType::from_id(id).map_or("unknown", |ty| ty.name)
}
