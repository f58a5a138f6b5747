//! From a path to a base model: what lies there says which kind it is.

use std::path::Path;

use jola_edit::gguf::Splits;

use super::hf::Directory;
use super::source::Base;
use crate::Error;

/// Opens a base model: a directory in Hugging Face's layout, or a GGUF file, the first
/// one if there are several.
///
/// # Errors
/// [`Error::Gguf`] or [`Error::HuggingFace`].
pub fn open(path: &Path) -> Result<Box<dyn Base>, Error> {
    if path.is_dir() {
        Ok(Box::new(Directory::open(path)?))
    } else {
        Ok(Box::new(Splits::open(path)?))
    }
}
