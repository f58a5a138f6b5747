//! What the trainer asks of a frozen base model, whatever it is stored in: metadata and
//! tensors as the GGUF has them, a tokenizer, and what tells one file from another.

use std::path::Path;

use jola_edit::gguf::{GgufError, Metadata};
use jola_edit::sidecar::{is_norm, norms_sha256};
use jola_edit::{BaseShape, BaseWeights};
use llama_jola::Vocabulary;

use super::tensor::BaseTensor;
use crate::Error;

/// A stored base model. Names and metadata are GGUF's in every case.
pub trait Base {
    /// The file or directory.
    fn path(&self) -> &Path;

    /// Metadata, `general.architecture` and what stands under it at least.
    fn metadata(&self) -> &Metadata;

    /// Names of all tensors.
    fn tensor_names(&self) -> Vec<&str>;

    /// A tensor by name.
    fn tensor(&self, name: &str) -> Option<BaseTensor<'_>>;

    /// Lets go of the memory of what has been read of the file; reading it again reads it anew.
    fn forget(&self) {}

    /// How to name a tensor that is not there, so that its user finds it.
    fn describe(&self, name: &str) -> String {
        name.to_owned()
    }

    /// The tokenizer and the chat template.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn vocabulary(&self) -> Result<Box<dyn Vocabulary>, Error>;

    /// SHA-256 of the GGUF file that the base is, or of the files one after the other; `None`
    /// where it is no such file.
    ///
    /// # Errors
    /// Where the file cannot be read.
    fn gguf_sha256(&self) -> Result<Option<String>, Error>;

    /// What tells other weights of the same shape from these, at little cost: by default the
    /// norms, which every GGUF made of this base holds as they are here.
    ///
    /// # Errors
    /// Where tensors cannot be read.
    fn weights(&self) -> Result<BaseWeights, Error> {
        let mut names = self.tensor_names();
        names.retain(|name| is_norm(name));
        names.sort_unstable();
        let mut norms = Vec::with_capacity(names.len());
        for name in names {
            let Some(tensor) = self.tensor(name) else {
                continue;
            };
            let mut bytes = Vec::new();
            tensor.read(|_, values| {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            })?;
            norms.push((name, bytes));
        }
        Ok(BaseWeights {
            norms_sha256: norms_sha256(norms.into_iter()),
            ..BaseWeights::default()
        })
    }

    /// What a sidecar must agree with.
    ///
    /// # Errors
    /// [`Error::Gguf`] for metadata that are missing or contradict each other.
    fn shape(&self) -> Result<BaseShape, Error> {
        let shape = BaseShape::from_metadata(self.metadata());
        Ok(shape.map_err(|kind| GgufError::new(self.path(), kind))?)
    }
}
