//! Key-value pairs in file order with unique keys: the order is part of the bytes.

use std::collections::HashMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{GgufErrorKind, Value, MAX_KEY_LEN};

/// The metadata of one file, in order; no key is empty, too long or twice.
///
/// Serialises (serde) as a map in the same order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// Metadata without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry behind all others.
    ///
    /// # Errors
    /// [`EmptyKey`](GgufErrorKind::EmptyKey), [`Limit`](GgufErrorKind::Limit) for a key longer
    /// than [`MAX_KEY_LEN`], [`DuplicateKey`](GgufErrorKind::DuplicateKey).
    pub fn insert(
        &mut self,
        key: impl Into<String>,
        value: impl Into<Value>,
    ) -> Result<(), GgufErrorKind> {
        let key = key.into();
        if key.is_empty() {
            return Err(GgufErrorKind::EmptyKey);
        }
        GgufErrorKind::check_limit(
            format_args!("length of a metadata key"),
            key.len() as u64,
            MAX_KEY_LEN,
        )?;
        if self.index.contains_key(&key) {
            return Err(GgufErrorKind::DuplicateKey { key });
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value.into()));
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let entry = self.entries.get(*self.index.get(key)?)?;
        Some(&entry.1)
    }

    /// The value of a key that may be absent, as `get` takes it (for example
    /// [`Value::as_u32`]).
    ///
    /// # Errors
    /// [`KeyType`](GgufErrorKind::KeyType), naming `expected`, if `get` does not take it.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufErrorKind> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match get(value) {
            Some(value) => Ok(Some(value)),
            None => Err(GgufErrorKind::KeyType {
                key: key.to_owned(),
                expected,
                found: value.type_name(),
            }),
        }
    }

    /// The value of a key that must be there, as `get` takes it.
    ///
    /// # Errors
    /// [`MissingKey`](GgufErrorKind::MissingKey), and as [`Metadata::optional`].
    pub fn required<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, GgufErrorKind> {
        self.optional(key, expected, get)?
            .ok_or_else(|| GgufErrorKind::MissingKey {
                key: key.to_owned(),
            })
    }

    /// The `uint32` of a key that must be there.
    ///
    /// # Errors
    /// As [`Metadata::required`].
    pub fn u32(&self, key: &str) -> Result<u32, GgufErrorKind> {
        self.required(key, "u32", Value::as_u32)
    }

    /// The text of a key that must be there.
    ///
    /// # Errors
    /// As [`Metadata::required`].
    pub fn str(&self, key: &str) -> Result<&str, GgufErrorKind> {
        self.required(key, "string", Value::as_str)
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
