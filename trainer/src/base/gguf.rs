//! A GGUF file as a base model.

use std::path::Path;

use jola_edit::gguf::{Gguf, Metadata};
use jola_edit::{sidecar, BaseWeights};
use llama_jola::Vocabulary;

use super::source::Base;
use super::tensor::{BaseTensor, RowOrder, StoredRows};
use crate::Error;

impl Base for Gguf {
    fn path(&self) -> &Path {
        Gguf::path(self)
    }

    fn metadata(&self) -> &Metadata {
        Gguf::metadata(self)
    }

    fn tensor_names(&self) -> Vec<&str> {
        self.tensors()
            .iter()
            .map(|info| info.name.as_str())
            .collect()
    }

    fn tensor(&self, name: &str) -> Option<BaseTensor<'_>> {
        let tensor = Gguf::tensor(self, name)?;
        let dims = tensor.info.dims.clone();
        Some(BaseTensor {
            file: Gguf::path(self),
            name: &tensor.info.name,
            reversed: false,
            parts: vec![StoredRows {
                ggml_type: tensor.info.ty,
                bytes: tensor.bytes,
                rows: dims.iter().skip(1).product::<u64>() as usize,
                columns: dims.first().map_or(1, |&dim| dim as usize),
                order: RowOrder::Stored,
                plus: 0.0,
            }],
            dims,
        })
    }

    fn vocabulary(&self) -> Result<Box<dyn Vocabulary>, Error> {
        Ok(Box::new(llama_jola::Model::load_vocab(Gguf::path(self))?))
    }

    fn gguf_sha256(&self) -> Result<Option<String>, Error> {
        let path = Gguf::path(self);
        let digest = sidecar::sha256(path).map_err(|source| Error::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Some(digest))
    }

    fn weights(&self) -> Result<BaseWeights, Error> {
        Ok(BaseWeights::read(Gguf::path(self))?)
    }
}
