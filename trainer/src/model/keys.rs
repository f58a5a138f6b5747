//! Metadata under an architecture's prefix, checked as they are read.

use jola_edit::gguf::{Array, GgufError, GgufErrorKind, Metadata, Value};

use crate::base::Base;
use crate::Error;

/// Reads the keys `<architecture>.<name>` of a base model.
pub(crate) struct Keys<'a> {
    base: &'a dyn Base,
    metadata: &'a Metadata,
    /// `general.architecture`
    pub architecture: &'a str,
}

impl<'a> Keys<'a> {
    pub fn new(base: &'a dyn Base) -> Result<Keys<'a>, Error> {
        let metadata = base.metadata();
        let architecture = metadata.str("general.architecture");
        let architecture = architecture.map_err(|kind| GgufError::new(base.path(), kind))?;
        Ok(Keys {
            base,
            metadata,
            architecture,
        })
    }

    fn error(&self, kind: GgufErrorKind) -> Error {
        GgufError::new(self.base.path(), kind).into()
    }

    /// What `get` takes from the value of `name`, if there is one.
    fn optional<T>(
        &self,
        name: &str,
        expected: &'static str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let value = self.metadata.optional(&self.key(name), expected, get);
        value.map_err(|kind| self.error(kind))
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// Whether the key is there.
    pub fn has(&self, name: &str) -> bool {
        self.metadata.get(&self.key(name)).is_some()
    }

    /// Whether the key of this whole name is there.
    pub fn has_whole(&self, key: &str) -> bool {
        self.metadata.get(key).is_some()
    }

    /// A count, or the one value of an array that repeats it for each layer.
    pub fn optional_count(&self, name: &str) -> Result<Option<usize>, Error> {
        let count = |value: &Value| match value {
            Value::Array(array) => {
                let counts = array.to_u32s()?;
                let first = *counts.first()?;
                let all_equal = counts.iter().all(|&c| c == first);
                all_equal.then_some(first as usize)
            }
            other => other.as_u64().map(|count| count as usize),
        };
        self.optional(name, "one count for all layers", count)
    }

    /// A positive count that must be there.
    pub fn count(&self, name: &str) -> Result<usize, Error> {
        match self.optional_count(name)? {
            Some(0) => Err(self.bad_value(name, "a positive count", "0")),
            Some(count) => Ok(count),
            None => {
                let key = self.key(name);
                Err(self.error(GgufErrorKind::MissingKey { key }))
            }
        }
    }

    /// A positive count, `default` where the key is absent.
    pub fn count_or(&self, name: &str, default: usize) -> Result<usize, Error> {
        if self.has(name) {
            self.count(name)
        } else {
            Ok(default)
        }
    }

    /// A float32 that is finite and not negative.
    pub fn optional_float(&self, name: &str) -> Result<Option<f64>, Error> {
        match self.optional(name, "f32", Value::as_f32)? {
            Some(value) if !value.is_finite() || value < 0.0 => {
                Err(self.bad_value(name, "a number that is not negative", &value.to_string()))
            }
            value => Ok(value.map(f64::from)),
        }
    }

    /// A positive float32 that must be there.
    pub fn float(&self, name: &str) -> Result<f64, Error> {
        match self.optional_float(name)? {
            Some(0.0) => Err(self.bad_value(name, "a positive number", "0")),
            Some(value) => Ok(value),
            None => {
                let key = self.key(name);
                Err(self.error(GgufErrorKind::MissingKey { key }))
            }
        }
    }

    /// A positive float32, `default` where the key is absent.
    pub fn float_or(&self, name: &str, default: f64) -> Result<f64, Error> {
        if self.has(name) {
            self.float(name)
        } else {
            Ok(default)
        }
    }

    /// A text; `None` where the key is absent.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, Error> {
        self.optional(name, "string", Value::as_str)
    }

    /// A truth value; `None` where the key is absent.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        self.optional(name, "bool", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// One truth value per layer: an array, or a number n that stands for groups of n layers
    /// of which the last is false (0: all are true). `None` where the key is absent.
    pub fn layer_flags(&self, name: &str, n_layer: usize) -> Result<Option<Vec<bool>>, Error> {
        let flags = |value: &Value| match value {
            Value::Array(Array::Bool(flags)) => Some(flags.clone()),
            Value::Array(array) => {
                let numbers = array.to_u32s()?;
                Some(numbers.iter().map(|&number| number != 0).collect())
            }
            other => other.as_u64().map(|n| all_but_last(n as usize, n_layer)),
        };
        match self.optional(name, "a number or one flag per layer", flags)? {
            Some(flags) if flags.len() < n_layer => {
                let expected = format!("{n_layer} flags");
                Err(self.bad_value(name, &expected, &flags.len().to_string()))
            }
            flags => Ok(flags),
        }
    }

    /// Size of the vocabulary: the list of tokens decides, without one `vocab_size`.
    pub fn vocabulary(&self) -> Result<usize, Error> {
        let length = |value: &Value| match value {
            Value::Array(tokens) => Some(tokens.len()),
            _ => None,
        };
        let key = "tokenizer.ggml.tokens";
        let tokens = self.metadata.optional(key, "array", length);
        match tokens.map_err(|kind| self.error(kind))? {
            Some(count) => Ok(count),
            None => self.count("vocab_size"),
        }
    }

    /// An error for what the reference model does not compute.
    pub fn refuse(&self, what: &str) -> Error {
        Error::Base {
            path: self.base.path().to_path_buf(),
            what: what.to_owned(),
        }
    }

    fn bad_value(&self, name: &str, expected: &str, found: &str) -> Error {
        let kind = GgufErrorKind::KeyValue {
            key: self.key(name),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        self.error(kind)
    }
}

/// For groups of `pattern` layers: true but for the last of each; all true for 0.
pub(crate) fn all_but_last(pattern: usize, n_layer: usize) -> Vec<bool> {
    let flag = |l: usize| pattern == 0 || l % pattern < pattern - 1;
    (0..n_layer).map(flag).collect()
}
