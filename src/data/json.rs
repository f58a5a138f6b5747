//! JSON values of the kind that a key wants, or the error that names the key.
//!
//! A key that an object has twice is an error too: serde_json would keep the last value without
//! a word, and other tools the first.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::RowError;

/// A JSON value without repeated keys, at any depth.
pub(super) struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any).map(Strict)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("`{key}` comes twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// The value that a whole text holds.
pub(super) fn parse(text: &str) -> Result<Value, RowError> {
    let strict = serde_json::from_str(text).map(|Strict(value)| value);
    strict.map_err(RowError::Json)
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
