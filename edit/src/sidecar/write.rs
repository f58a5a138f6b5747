//! From a [`Sidecar`] to the bytes of a file, always the same for the same sidecar.

use std::io::Write;
use std::path::Path;

use super::{keys, HeadCount, Sidecar, SidecarError, SidecarErrorKind};
use super::{ADAPTER_TYPE, FORMAT_VERSION, GENERAL_TYPE};
use crate::gguf::{self, Array, GgufWriter, Metadata};
use crate::output::Output;

impl Sidecar {
    /// Checks the sidecar, then writes it in one step: `path` holds either the whole file or
    /// what it held before.
    ///
    /// # Errors
    /// As [`Sidecar::validate`], or `Gguf` with what the system or the container refused.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), SidecarError> {
        let path = path.as_ref();
        let writer = self
            .to_writer()
            .map_err(|kind| SidecarError::new(path, kind))?;
        writer
            .write(path)
            .map_err(|error| SidecarError::new(path, *error.kind))
    }

    /// Checks the sidecar, then writes it to an output that was found writable before.
    ///
    /// # Errors
    /// As [`Sidecar::write`].
    pub fn write_output(&self, output: &Output) -> Result<(), SidecarError> {
        let at_output = |kind| SidecarError::new(output.path(), kind);
        let writer = self.to_writer().map_err(at_output)?;
        let written = writer.write_output(output);
        written.map_err(|error| at_output((*error.kind).into()))
    }

    /// Checks the sidecar, then writes the file's bytes to any stream.
    ///
    /// # Errors
    /// As [`Sidecar::write`].
    pub fn write_to(&self, out: impl Write) -> Result<(), SidecarErrorKind> {
        Ok(self.to_writer()?.write_to(out)?)
    }

    fn to_writer(&self) -> Result<GgufWriter<'static>, SidecarErrorKind> {
        self.validate()?;
        let mut writer = GgufWriter::new(self.to_metadata()?)?;
        for (&layer, edit) in &self.layers {
            for (operation, vectors) in edit.operations() {
                let k = vectors.heads.len() as u64;
                let values = vectors.values.iter().flat_map(|value| value.to_le_bytes());
                writer.add_tensor(
                    operation.vectors_name(layer),
                    gguf::F32,
                    &[self.head_dim.into(), k],
                    values.collect::<Vec<u8>>(),
                )?;
                // Heads are below MAX_ROW_LEN, so their bytes are those of an i32 as well.
                let heads = vectors.heads.iter().flat_map(|head| head.to_le_bytes());
                writer.add_tensor(
                    operation.heads_name(layer),
                    gguf::I32,
                    &[k],
                    heads.collect::<Vec<u8>>(),
                )?;
            }
        }
        Ok(writer)
    }

    fn to_metadata(&self) -> Result<Metadata, SidecarErrorKind> {
        let mut metadata = Metadata::new();
        metadata.insert(keys::GENERAL_TYPE, GENERAL_TYPE)?;
        metadata.insert(keys::ARCHITECTURE, self.architecture.as_str())?;
        metadata.insert(keys::NAME, self.name.as_str())?;
        metadata.insert(keys::BASE_MODEL_NAME, self.base_model_name.as_str())?;
        metadata.insert(keys::ADAPTER_TYPE, ADAPTER_TYPE)?;
        metadata.insert(keys::FORMAT_VERSION, FORMAT_VERSION)?;
        metadata.insert(keys::BLOCK_COUNT, self.block_count)?;
        match &self.head_count {
            HeadCount::Uniform(count) => metadata.insert(keys::HEAD_COUNT, *count)?,
            HeadCount::PerLayer(counts) => {
                metadata.insert(keys::HEAD_COUNT, Array::U32(counts.clone()))?;
            }
        }
        metadata.insert(keys::HEAD_DIM, self.head_dim)?;
        metadata.insert(keys::METHOD, self.method.as_str())?;
        if let Some(digest) = &self.base_sha256 {
            metadata.insert(keys::BASE_SHA256, digest.as_str())?;
        }
        for (key, value) in self.train.iter() {
            metadata.insert(format!("{}{key}", keys::TRAIN_PREFIX), value.clone())?;
        }
        Ok(metadata)
    }
}
