//! JSON values of the kind that a key wants, or the error that names the key.
//!
//! A key that an object has twice is an error too: serde_json would keep the last value without
//! a word, and other tools the first.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::RowError;

/// A JSON value whose objects have no key twice, at any depth. It is only looked at: the value
/// is read by serde_json itself, which alone knows how it is built to hold numbers.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(A::Error::custom(format_args!("`{key}` comes twice")));
            }
            let Self = entries.next_value()?;
            keys.insert(key);
        }
        Ok(self)
    }
}

/// The value that a whole text holds.
pub(super) fn parse(text: &str) -> Result<Value, RowError> {
    let UniqueKeys = serde_json::from_str(text).map_err(RowError::Json)?;
    serde_json::from_str(text).map_err(RowError::Json)
}

/// The value as a text.
pub(super) fn text(key: &str, value: Value) -> Result<String, RowError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(field(key, &other, "a text")),
    }
}

/// The value as a list.
pub(super) fn list(key: &str, value: Value) -> Result<Vec<Value>, RowError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(field(key, &other, "a list")),
    }
}

/// The error for a value of the wrong kind.
pub(super) fn field(key: &str, value: &Value, expected: &'static str) -> RowError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    RowError::Field {
        key: key.to_owned(),
        found,
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_serde_json_reads() {
        for text in [
            "null",
            "true",
            "-3",
            "18446744073709551615",
            "0.25",
            r#""t\u00e9""#,
            r#"{"b": [1, {"a": null}], "a": {"b": 2, "c": []}}"#,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_named_at_any_depth() {
        for text in [
            r#"{"prompt": "a", "prompt": "b"}"#,
            r#"{"messages": [{"role": "user", "prompt": 1, "prompt": 1}]}"#,
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains("`prompt` comes twice at line 1"), "{said}");
        }
    }
}
