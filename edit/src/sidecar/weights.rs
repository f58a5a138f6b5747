//! What tells one base model from another of the same shape, at the price of a few pages of
//! its file.
//!
//! A digest of all weights would take seconds at every start. Two short ones are enough: a
//! sample of every tensor tells files apart that store other numbers, and the norms, which no
//! quantisation touches, tell apart what was another model before it was quantised.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::gguf::{self, GgufError, Splits, Tensor};

/// Bytes of a tensor's data that are sampled at its beginning, and at its end.
const SAMPLE: usize = 256;
/// How the names of tensors end that every quantisation leaves as they are.
const NORM: &str = "norm.weight";

/// Digests of a base model's weights; `docs/reference/sidecar-format.md` says of which bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseWeights {
    /// Size of the model's file, or of all its files.
    pub bytes: Option<u64>,
    /// SHA-256 of a sample of every tensor, names and types included.
    pub sample_sha256: Option<String>,
    /// SHA-256 of the norms; `None` for a model without any, or with norms that are not F32.
    pub norms_sha256: Option<String>,
}

impl BaseWeights {
    /// Those of a GGUF model, by its only file or the first of several.
    ///
    /// # Errors
    /// As [`Splits::open`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        Ok(Self::of(&Splits::open(path)?))
    }

    /// Those of an open GGUF model.
    pub fn of(splits: &Splits) -> Self {
        Self {
            bytes: Some(splits.bytes()),
            ..Self::of_tensors(splits.iter())
        }
    }

    /// Those of all tensors of a GGUF model, in any order; its size is left out.
    pub fn of_tensors<'a>(tensors: impl Iterator<Item = Tensor<'a>>) -> Self {
        let mut tensors: Vec<Tensor<'_>> = tensors.collect();
        tensors.sort_unstable_by(|a, b| a.info.name.cmp(&b.info.name));
        let mut hasher = Sha256::new();
        for Tensor { info, bytes } in &tensors {
            let len = bytes.len().min(SAMPLE);
            hasher.update(&info.name);
            hasher.update([0]);
            hasher.update(info.ty.to_le_bytes());
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes[..len]);
            hasher.update(&bytes[bytes.len() - len..]);
        }
        let norms = || tensors.iter().filter(|tensor| is_norm(&tensor.info.name));
        let readable = norms().all(|tensor| tensor.info.ty == gguf::F32);
        let norms = norms().map(|tensor| (tensor.info.name.as_str(), tensor.bytes));
        Self {
            bytes: None,
            sample_sha256: Some(hexadecimal(hasher)),
            norms_sha256: readable.then(|| norms_sha256(norms)).flatten(),
        }
    }
}

/// Whether a tensor of this name is a norm's weight.
pub fn is_norm(name: &str) -> bool {
    name.ends_with(NORM)
}

/// [`BaseWeights::norms_sha256`] of all norms, given by their names in ascending order and
/// their values as little-endian F32.
pub fn norms_sha256<N: AsRef<str>, B: AsRef<[u8]>>(
    norms: impl Iterator<Item = (N, B)>,
) -> Option<String> {
    let mut hasher = Sha256::new();
    let mut count = 0;
    for (name, values) in norms {
        hasher.update(name.as_ref());
        hasher.update([0]);
        hasher.update(values);
        count += 1;
    }
    (count > 0).then(|| hexadecimal(hasher))
}

fn hexadecimal(hasher: Sha256) -> String {
    format!("{:x}", hasher.finalize())
}
