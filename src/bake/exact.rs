//! The effect of rounded weights alone.
//!
//! Where weights are quantised, llama.cpp's kernels round activations too, and any change of the
//! order of operations makes them round differently: on a CPU, SmolLM2-135M in Q4_1 differs from
//! itself by a mean KL of 6e-3 when only the batch is cut differently. A limit of 1e-3 on the
//! weights' own effect cannot be seen through that. So candidates are compared in a copy of the
//! model whose quantised tensors have become floats. The copy is a split GGUF in a temporary
//! folder: its first file holds what is the same for all candidates and is written once, the
//! second one the changed tensors.

use std::io;
use std::path::{Path, PathBuf};

use jola_edit::gguf::{self, GgmlType, GgufError, GgufErrorKind, GgufWriter, Metadata, TensorData};
use jola_edit::{EditSet, Output};
use tempfile::TempDir;

use super::compare::{Comparison, Sample};
use super::plan::{Candidate, Plan};
use super::{projection, BakeError};
use crate::{ContextParams, Model, ModelParams};

/// The copy, and the live edit's logits on it.
pub struct Exact<'a> {
    plan: &'a Plan<'a>,
    /// Holds the copy; removed when dropped.
    folder: TempDir,
    live: Sample,
    model: &'a ModelParams,
    context: &'a ContextParams,
}

impl<'a> Exact<'a> {
    /// Writes the copy into a temporary folder beside `out` and runs the live edit on it.
    pub fn new(
        plan: &'a Plan<'a>,
        edits: &EditSet,
        out: &Output,
        model: &'a ModelParams,
        context: &'a ContextParams,
    ) -> Result<Self, BakeError> {
        let beside = out.scratch_folder();
        let at_folder = |error| {
            let action = "create a temporary folder in it";
            GgufError::new(&beside, GgufErrorKind::Io { action, error })
        };
        let folder = tempfile::Builder::new()
            .prefix(".jola-")
            .tempdir_in(&beside);
        let folder = folder.map_err(at_folder)?;
        let path = |index| file(folder.path(), index);
        // 16-bit floats unless they overflow: the noise of rounding activations to them is
        // a hundred times below the limit.
        let mut live = None;
        for id in [gguf::F16, gguf::F32] {
            plan.unchanged_as(id)?.write(path(0))?;
            plan.changed_as_floats(None)?.write(path(1))?;
            let sample = Sample::live(&Model::load(path(0), model)?, edits, context)?;
            let finite = sample.is_finite();
            live = Some(sample);
            if finite {
                break;
            }
        }
        let live = live.expect("the loop has run");
        Ok(Self {
            plan,
            folder,
            live,
            model,
            context,
        })
    }

    /// Compares a candidate with the live edit.
    pub fn compare(&self, candidate: &Candidate) -> Result<Comparison, BakeError> {
        let path = |index| file(self.folder.path(), index);
        self.plan
            .changed_as_floats(Some(candidate))?
            .write(path(1))?;
        let model = Model::load(path(0), self.model)?;
        Ok(self.live.compare(&model, self.context)?)
    }
}

fn file(folder: &Path, index: u32) -> PathBuf {
    folder.join(format!("floats-{:05}-of-00002.gguf", index + 1))
}

/// The keys of file `index` of two.
fn insert_split_keys(
    metadata: &mut Metadata,
    index: u16,
    tensors: usize,
) -> Result<(), GgufErrorKind> {
    let [no, count, all] = gguf::SPLIT_KEYS;
    metadata.insert(no, index)?;
    metadata.insert(count, 2u16)?;
    metadata.insert(all, tensors as i32)
}

impl Plan<'_> {
    /// The first file: the model's metadata and the tensors that no candidate changes,
    /// quantised ones as type `id`.
    fn unchanged_as(&self, id: u32) -> Result<GgufWriter<'_>, BakeError> {
        let at_base = |kind| BakeError::from(self.base().first().error(kind));
        let mut metadata = Metadata::new();
        for (key, value) in self.base().metadata().iter() {
            if !gguf::SPLIT_KEYS.contains(&key) {
                metadata.insert(key, value.clone()).map_err(at_base)?;
            }
        }
        let changed = self.names();
        let unchanged = || {
            self.base()
                .iter()
                .filter(|t| !changed.contains(&t.info.name))
        };
        let tensors = unchanged().count() + changed.len();
        insert_split_keys(&mut metadata, 0, tensors).map_err(at_base)?;
        let mut writer = GgufWriter::new(metadata).map_err(at_base)?;
        for tensor in unchanged() {
            let info = tensor.info;
            let quantised = GgmlType::from_id(info.ty).is_some_and(|ty| ty.block > 1);
            let (ty, data) = if quantised || info.ty == gguf::BF16 {
                let data = TensorData::stream(move |out| {
                    projection::convert(tensor, id, out).map_err(io::Error::other)
                });
                (id, data)
            } else {
                (info.ty, tensor.bytes.into())
            };
            let name = info.name.as_str();
            writer
                .add_tensor(name, ty, &info.dims, data)
                .map_err(at_base)?;
        }
        Ok(writer)
    }

    /// The second file: the tensors that `candidate` changes, with its rounding, as 32-bit
    /// floats; without one, as they are in the base, with zeros for a bias that is not there.
    fn changed_as_floats(
        &self,
        candidate: Option<&Candidate>,
    ) -> Result<GgufWriter<'_>, BakeError> {
        let at_base = |kind| BakeError::from(self.base().first().error(kind));
        let mut metadata = Metadata::new();
        insert_split_keys(&mut metadata, 1, 0).map_err(at_base)?;
        let mut writer = GgufWriter::new(metadata).map_err(at_base)?;
        for (name, dims, data) in self.float_tensors(candidate) {
            writer
                .add_tensor(name, gguf::F32, &dims, data)
                .map_err(at_base)?;
        }
        Ok(writer)
    }
}
