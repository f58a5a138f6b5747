//! Collects the metadata that config.json is translated into.

use jola_edit::gguf::{GgufError, Metadata, Value};

use super::json::Object;

/// Collects metadata under an architecture's prefix.
pub(crate) struct MetadataWriter {
    architecture: &'static str,
    entries: Vec<(String, Value)>,
}

impl MetadataWriter {
    pub fn new(architecture: &'static str) -> MetadataWriter {
        MetadataWriter {
            architecture,
            entries: Vec::new(),
        }
    }

    /// Sets a key without the prefix.
    pub fn general(&mut self, key: &str, value: &str) {
        self.entries.push((key.to_owned(), value.into()));
    }

    /// Sets `<architecture>.<key>`.
    pub fn set(&mut self, key: &str, value: Value) {
        self.entries
            .push((format!("{}.{key}", self.architecture), value));
    }

    /// Sets `<architecture>.<key>` to a count.
    pub fn count(&mut self, key: &str, value: u32) {
        self.set(key, Value::U32(value));
    }

    /// Sets `<architecture>.<key>` to a float32.
    pub fn float(&mut self, key: &str, value: f64) {
        self.set(key, Value::F32(value as f32));
    }

    /// The metadata; `config` is the file that errors name.
    pub fn finish(self, config: &Object) -> Result<Metadata, GgufError> {
        let mut metadata = Metadata::new();
        for (key, value) in self.entries {
            let inserted = metadata.insert(key, value);
            inserted.map_err(|kind| GgufError::new(config.file(), kind))?;
        }
        Ok(metadata)
    }
}
