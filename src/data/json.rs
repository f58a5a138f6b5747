//! JSON values of the kind that a key wants, or the error that names the key.

use serde_json::Value;

use super::RowError;

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
