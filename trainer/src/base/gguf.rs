//! A GGUF model, in one file or several, as a base model.

use std::path::Path;

use jola_edit::gguf::{Metadata, Splits};
use jola_edit::BaseWeights;
use llama_jola::Vocabulary;

use super::source::Base;
use super::tensor::{BaseTensor, RowOrder, StoredRows};
use crate::Error;

impl Base for Splits {
    fn path(&self) -> &Path {
        self.first().path()
    }

    fn metadata(&self) -> &Metadata {
        Splits::metadata(self)
    }

    fn tensor_names(&self) -> Vec<&str> {
        let tensors = self.files().iter().flat_map(|file| file.tensors());
        tensors.map(|info| info.name.as_str()).collect()
    }

    fn tensor(&self, name: &str) -> Option<BaseTensor<'_>> {
        let (file, tensor) = Splits::tensor(self, name)?;
        let dims = tensor.info.dims.clone();
        Some(BaseTensor {
            file: file.path(),
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

    fn forget(&self) {
        self.files().iter().for_each(|file| file.forget());
    }

    fn vocabulary(&self) -> Result<Box<dyn Vocabulary>, Error> {
        Ok(Box::new(llama_jola::Model::load_vocab(
            self.first().path(),
        )?))
    }

    fn gguf_sha256(&self) -> Result<Option<String>, Error> {
        let digest = self.sha256().map_err(|error| Error::Read {
            path: self.first().path().to_path_buf(),
            error,
        })?;
        Ok(Some(digest))
    }

    fn weights(&self) -> Result<BaseWeights, Error> {
        Ok(BaseWeights::of(self))
    }
}
