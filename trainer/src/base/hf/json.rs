//! JSON files of the directory, checked as they are read. `null` counts as absent.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{HfError, HfErrorKind};

/// An object of a file.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    file: PathBuf,
    /// Keys of the objects around it, each followed by a dot.
    prefix: String,
    map: Map<String, Value>,
}

impl Object {
    /// Reads a file that holds one object.
    pub fn read(file: &Path) -> Result<Object, HfError> {
        let fail = |kind: HfErrorKind| HfError::new(file, kind);
        let text = std::fs::read(file).map_err(|source| {
            let action = "read it";
            fail(HfErrorKind::Io { action, source })
        })?;
        let map = serde_json::from_slice(&text).map_err(|error| fail(error.into()))?;
        Ok(Object {
            file: file.to_path_buf(),
            prefix: String::new(),
            map,
        })
    }

    /// As [`Self::read`]; `None` where there is no such file.
    pub fn read_optional(file: &Path) -> Result<Option<Object>, HfError> {
        file.is_file().then(|| Object::read(file)).transpose()
    }

    /// The file that it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// An error about this file.
    pub fn error(&self, kind: HfErrorKind) -> HfError {
        HfError::new(&self.file, kind)
    }

    /// An error about the value of a key.
    pub fn bad(&self, key: &str, expected: &str) -> HfError {
        self.error(HfErrorKind::Value {
            key: self.full(key),
            expected: expected.to_owned(),
            found: self
                .map
                .get(key)
                .map_or("absent".to_owned(), Value::to_string),
        })
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A value, unless it is `null`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// An object within this one; an empty one where it is absent.
    pub fn object(&self, key: &str) -> Result<Object, HfError> {
        let map = match self.get(key) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(_) => return Err(self.bad(key, "an object")),
        };
        Ok(Object {
            file: self.file.clone(),
            prefix: format!("{}.", self.full(key)),
            map,
        })
    }

    /// Gives a key a value unless it has one.
    pub fn set_default(&mut self, key: &str, value: Option<Value>) {
        if let (None, Some(value)) = (self.get(key), value) {
            self.map.insert(key.to_owned(), value);
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, HfError> {
        let bad = || self.bad(key, expected);
        self.get(key)
            .map(|value| get(value).ok_or_else(bad))
            .transpose()
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, HfError> {
        let key = || self.full(key);
        value.ok_or_else(|| self.error(HfErrorKind::MissingKey { key: key() }))
    }

    /// A count that fits GGUF's `u32`.
    pub fn optional_count(&self, key: &str) -> Result<Option<u32>, HfError> {
        let count = |value: &Value| u32::try_from(value.as_u64()?).ok();
        self.typed(key, "a count", count)
    }

    /// A count that must be there and positive.
    pub fn count(&self, key: &str) -> Result<u32, HfError> {
        match self.required(key, self.optional_count(key)?)? {
            0 => Err(self.bad(key, "a positive count")),
            count => Ok(count),
        }
    }

    /// A number; `None` where the key is absent.
    pub fn optional_float(&self, key: &str) -> Result<Option<f64>, HfError> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A number that must be there.
    pub fn float(&self, key: &str) -> Result<f64, HfError> {
        self.required(key, self.optional_float(key)?)
    }

    /// A text; `None` where the key is absent.
    pub fn text(&self, key: &str) -> Result<Option<&str>, HfError> {
        self.typed(key, "a text", Value::as_str)
    }

    /// A truth value; `None` where the key is absent.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, HfError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A list; `None` where the key is absent.
    pub fn list(&self, key: &str) -> Result<Option<&Vec<Value>>, HfError> {
        self.typed(key, "a list", Value::as_array)
    }

    /// A list of numbers.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, HfError> {
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let all = |value: &Value| value.as_array()?.iter().map(number).collect();
        self.typed(key, "a list of numbers", all)
    }
}
