//! From JSON to the messages of a conversation.

use serde_json::{Map, Value};

use super::json::{field, list, parse};
use super::RowError;
use crate::chat::Message;

/// Reads a conversation, a JSON list of messages.
///
/// # Errors
/// [`RowError`], naming the message and the key.
pub fn parse_messages(text: &str) -> Result<Vec<Message>, RowError> {
    messages_of(list("messages", parse(text)?)?)
}

/// Reads the messages of a conversation.
pub(super) fn messages_of(values: Vec<Value>) -> Result<Vec<Message>, RowError> {
    let values = values.into_iter().enumerate();
    values
        .map(|(index, value)| message_of(value, index + 1))
        .collect()
}

/// Reads one message, the `number`th. Parts of text are joined, as llama-server does where a
/// template takes texts only; an assistant that calls tools need not say anything.
fn message_of(value: Value, number: usize) -> Result<Message, RowError> {
    let wrong = |key: &str, value: &Value, expected| {
        field(&format!("{key} of message {number}"), value, expected)
    };
    let Value::Object(mut map) = value else {
        let expected = "an object with `role` and `content`";
        return Err(field(&format!("message {number}"), &value, expected));
    };
    let role = map.get("role").unwrap_or(&Value::Null);
    if !role.is_string() {
        return Err(wrong("role", role, "a text"));
    }
    let silent = role == "assistant" && map.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let content = match map.get("content").unwrap_or(&Value::Null) {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().map(|part| match part["text"].as_str() {
                Some(text) if part["type"] == "text" => Ok(text),
                _ => Err(wrong(
                    "a part of content",
                    part,
                    "{\"type\": \"text\", \"text\": …}",
                )),
            });
            texts.collect::<Result<String, _>>()?
        }
        Value::Null if silent => String::new(),
        other => return Err(wrong("content", other, "a text")),
    };
    let weight = map.get("weight").unwrap_or(&Value::Null);
    if !weight.is_null()
        && weight
            .as_f64()
            .is_none_or(|weight| weight != 0.0 && weight != 1.0)
    {
        return Err(wrong("weight", weight, "0 or 1"));
    }
    map.insert("content".into(), content.into());
    map.retain(|_, value| !value.is_null());
    Ok(Message::from_map(map))
}

/// A turn as ShareGPT writes it, as a message.
pub(super) fn sharegpt(turn: &Value) -> Result<Value, RowError> {
    let fail = |found| RowError::Field {
        key: "conversations".into(),
        found,
        expected: "a list of {\"from\", \"value\"} with human, gpt or system",
    };
    let role = match turn["from"].as_str() {
        Some("human" | "user") => "user",
        Some("gpt" | "assistant") => "assistant",
        Some("system") => "system",
        Some(_) => return Err(fail("a turn of another kind")),
        None => return Err(fail("a turn without `from`")),
    };
    let mut message = Map::new();
    message.insert("role".into(), role.into());
    message.insert("content".into(), turn["value"].clone());
    Ok(Value::Object(message))
}
