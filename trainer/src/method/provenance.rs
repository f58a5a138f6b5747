//! What a result says about where it comes from.

use jola_edit::gguf::Metadata;

/// What a sidecar or an adapter says besides its numbers.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// What this edit is.
    pub name: String,
    /// Which model it was trained on.
    pub base_model_name: String,
    /// SHA-256 of the base model's file.
    pub base_sha256: Option<String>,
    /// Entries under `jola.train.`, keys without the prefix.
    pub train: Metadata,
}
