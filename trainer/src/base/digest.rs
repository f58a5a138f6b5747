//! What tells one base model from another where it is no single file.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::source::Base;

/// The digest of a base model that is no single file: of the names and stored bytes of its
/// tensors.
pub fn tensors_sha256(base: &dyn Base) -> String {
    let mut hash = Sha256::new();
    let mut names = base.tensor_names();
    names.sort_unstable();
    for name in names {
        hash.update(name);
        for part in base.tensor(name).iter().flat_map(|tensor| &tensor.parts) {
            hash.update(part.bytes);
        }
    }
    let digest = hash.finalize();
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
