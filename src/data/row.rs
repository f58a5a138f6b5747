//! From a JSON object to a row: the forms, and what each key means in them.

use serde_json::{Map, Value};

use super::json::{list, parse, text};
use super::message::{messages_of, sharegpt};
use super::{Conversation, Form, Row, RowError};
use crate::chat::Message;

/// Keys that change what a model is given or learns wherever they stand in other tools' data.
/// A form that has no place for one refuses it.
const MEANINGFUL: [&str; 17] = [
    "system",
    "tools",
    "tool_calls",
    "functions",
    "function_call",
    "documents",
    "chat_template_kwargs",
    "history",
    "images",
    "image",
    "videos",
    "audios",
    "reasoning_content",
    "thinking",
    "weight",
    "chosen",
    "rejected",
];

/// Reads one row from its JSON text.
///
/// # Errors
/// [`RowError`].
pub fn parse_row(text: &str, line: usize) -> Result<Row, RowError> {
    row_of(parse(text)?, line)
}

/// Reads one row from its JSON value.
pub(super) fn row_of(value: Value, line: usize) -> Result<Row, RowError> {
    let Value::Object(map) = value else {
        return Err(RowError::Form { keys: Vec::new() });
    };
    let mut fields = Fields { map };
    let references = fields.texts("references")?;
    let choices = fields.texts("choices")?;
    let (form, completion) = fields.form()?;
    fields.refuse_rest()?;
    if !choices.is_empty() && !choices.contains(&completion) {
        return Err(RowError::Choices { completion });
    }
    Ok(Row {
        form,
        completion,
        references,
        choices,
        line,
    })
}

/// What a row says, key by key; a key that was read is gone. `null` is as good as absent.
struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, RowError> {
        let value = self.take(key);
        value.map(|value| text(key, value)).transpose()
    }

    fn texts(&mut self, key: &str) -> Result<Vec<String>, RowError> {
        let Some(value) = self.take(key) else {
            return Ok(Vec::new());
        };
        list(key, value)?
            .into_iter()
            .map(|value| text(key, value))
            .collect()
    }

    /// The prompt and the completion, by the keys that are there.
    fn form(&mut self) -> Result<(Form, String), RowError> {
        let keys = || self.map.keys().cloned().collect();
        if self.map.is_empty() {
            return Err(RowError::Form { keys: keys() });
        }
        let keys: Vec<String> = keys();
        if let Some(messages) = self.take("messages") {
            return self.conversation(list("messages", messages)?);
        }
        if let Some(turns) = self.take("conversations") {
            let turns = list("conversations", turns)?;
            let messages = turns.iter().map(sharegpt).collect::<Result<_, _>>()?;
            return self.conversation(messages);
        }
        match self.take("prompt") {
            Some(Value::Array(mut messages)) => {
                let Some(completion) = self.take("completion") else {
                    return Err(RowError::NoCompletion { key: "completion" });
                };
                messages.extend(list("completion", completion)?);
                return self.conversation(messages);
            }
            Some(prompt) => {
                let prompt = Form::Plain(text("prompt", prompt)?);
                let completion = self.text("completion")?;
                return Ok((prompt, required("completion", completion)?));
            }
            None => {}
        }
        let Some(instruction) = self.text("instruction")? else {
            return Err(RowError::Form { keys });
        };
        let input = self.text("input")?.unwrap_or_default();
        let (answer, output) = (self.text("answer")?, self.text("output")?);
        let completion = match (answer, output) {
            (Some(answer), _) => required("answer", Some(answer))?,
            (None, Some(output)) => required("output", Some(output))?,
            (None, None) => return Err(RowError::NoCompletion { key: "answer" }),
        };
        let prompt = instruction_prompt(&instruction, &input);
        Ok((Form::Plain(prompt), completion))
    }

    fn conversation(&mut self, messages: Vec<Value>) -> Result<(Form, String), RowError> {
        let mut messages = messages_of(messages)?;
        let said_by_system = messages
            .first()
            .is_some_and(|first| first.role() == "system");
        if let Some(system) = self.text("system")?.filter(|text| !text.is_empty()) {
            if said_by_system {
                return Err(RowError::NoPlace {
                    key: "system".into(),
                    remedy: "the conversation begins with a system message of its own",
                });
            }
            messages.insert(0, Message::new("system", system));
        }
        let tools = self.take("tools");
        let tools = tools.map(|tools| list("tools", tools)).transpose()?;
        let tools = tools.filter(|tools| !tools.is_empty()).map(Value::Array);
        let answer = match messages.pop() {
            Some(last) if last.role() == "assistant" => last,
            last => {
                let role = last.map_or("none".to_owned(), |message| message.role().to_owned());
                return Err(RowError::LastMessage { role });
            }
        };
        let completion = answer.content().to_owned();
        if completion.is_empty() && !answer.calls_tools() {
            return Err(RowError::EmptyCompletion { key: "content" });
        }
        let trained = |m: &Message| m.role() == "assistant" && m.is_trained();
        if !trained(&answer) && !messages.iter().any(trained) {
            return Err(RowError::NoWeight);
        }
        let conversation = Conversation {
            messages,
            answer,
            tools,
        };
        Ok((Form::Chat(conversation), completion))
    }

    /// Refuses what nothing has read though it means something.
    fn refuse_rest(&self) -> Result<(), RowError> {
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        let rest = self.map.iter().filter(|(_, value)| !empty(value));
        match rest
            .map(|(key, _)| key)
            .find(|key| MEANINGFUL.contains(&key.as_str()))
        {
            None => Ok(()),
            Some(key) => Err(RowError::NoPlace {
                key: key.clone(),
                remedy: "write the row as \"messages\" (with \"tools\" beside them), or remove it",
            }),
        }
    }
}

fn required(key: &'static str, value: Option<String>) -> Result<String, RowError> {
    match value {
        None => Err(RowError::NoCompletion { key }),
        Some(text) if text.is_empty() => Err(RowError::EmptyCompletion { key }),
        Some(text) => Ok(text),
    }
}

/// The prompt that JoLA was published with; instruction and input are joined by a newline.
pub fn instruction_prompt(instruction: &str, input: &str) -> String {
    let separator = if instruction.is_empty() || input.is_empty() {
        ""
    } else {
        "\n"
    };
    format!(
        "Below is an instruction that describes a task. Write a response that appropriately \
         completes the request.\n ### Instruction:\n{instruction}{separator}{input}\n\n\
         ### Response:\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Row {
        parse_row(text, 1).unwrap()
    }

    fn error(text: &str) -> String {
        parse_row(text, 1).unwrap_err().to_string()
    }

    fn chat(row: &Row) -> &Conversation {
        match &row.form {
            Form::Chat(conversation) => conversation,
            Form::Plain(_) => panic!("a conversation"),
        }
    }

    #[test]
    fn three_forms() {
        let row = parse(r#"{"prompt": "a", "completion": " b", "references": ["c"], "id": 7}"#);
        assert_eq!(row.form, Form::Plain("a".into()));
        assert_eq!((row.completion.as_str(), row.references.len()), (" b", 1));
        assert!(row.choices.is_empty());

        let row = parse(
            r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]}"#,
        );
        assert_eq!(chat(&row).messages, [Message::new("user", "q")]);
        assert_eq!(row.completion, "x");

        let row = parse(r#"{"instruction": "do", "input": "it", "output": "long", "answer": "o"}"#);
        let Form::Plain(prompt) = row.form else {
            panic!("plain")
        };
        assert_eq!(
            prompt,
            "Below is an instruction that describes a task. Write a response that \
             appropriately completes the request.\n ### Instruction:\ndo\nit\n\n### Response:\n"
        );
        assert_eq!(row.completion, "o");
        let row = parse(r#"{"instruction": "do", "input": "", "output": "long"}"#);
        assert_eq!(row.completion, "long");
        assert!(matches!(row.form, Form::Plain(p) if p.contains(":\ndo\n\n###")));
    }

    #[test]
    fn a_plain_prompt_becomes_a_user_message() {
        let row = parse(r#"{"prompt": "a", "completion": "b"}"#).into_chat();
        assert_eq!(chat(&row).messages, [Message::new("user", "a")]);
        assert_eq!(chat(&row).answer, Message::new("assistant", "b"));
    }

    #[test]
    fn conversations_as_people_have_them() {
        let row = parse(
            r#"{"system": "s", "tools": [{"name": "f"}], "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]},
                {"role": "assistant", "content": null, "tool_calls": [{"id": 1}]},
                {"role": "tool", "content": "ok"},
                {"role": "assistant", "content": "x", "weight": 1}]}"#,
        );
        let Conversation {
            messages, tools, ..
        } = chat(&row);
        let said: Vec<(&str, &str)> = messages.iter().map(|m| (m.role(), m.content())).collect();
        assert_eq!(
            said,
            [
                ("system", "s"),
                ("user", "qr"),
                ("assistant", ""),
                ("tool", "ok")
            ]
        );
        assert!(messages[2].calls_tools() && tools.is_some());

        let row = parse(
            r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#,
        );
        assert_eq!(
            (chat(&row).messages.len(), row.completion.as_str()),
            (1, "b")
        );
        let row = parse(
            r#"{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}"#,
        );
        assert_eq!(
            (chat(&row).messages.len(), row.completion.as_str()),
            (1, "b")
        );
        let row = parse(r#"{"messages": null, "prompt": "a", "completion": "b", "choices": null}"#);
        assert_eq!(row.completion, "b");
    }

    #[test]
    fn what_has_no_place_is_refused_by_its_key() {
        assert!(
            error(r#"{"instruction": "a", "output": "b", "history": [["q", "a"]]}"#)
                .contains("`history`")
        );
        assert!(
            error(r#"{"instruction": "a", "output": "b", "system": "s"}"#).contains("`system`")
        );
        assert!(error(r#"{"prompt": "a", "completion": "b", "tools": [1]}"#).contains("`tools`"));
        assert!(error(
            r#"{"system": "s", "messages": [{"role": "system", "content": "t"},
            {"role": "assistant", "content": "a"}]}"#
        )
        .contains("system message of its own"));
        assert!(error(
            r#"{"messages": [{"role": "user", "content": [{"type": "image"}]},
            {"role": "assistant", "content": "a"}]}"#
        )
        .contains("message 1"));
        assert!(
            error(r#"{"messages": [{"role": "assistant", "content": "a", "weight": 0}]}"#)
                .contains("`weight` is 0")
        );
        assert!(
            error(r#"{"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}"#)
                .contains("0 or 1")
        );
        parse(r#"{"prompt": "a", "completion": "b", "history": [], "system": ""}"#);
    }

    #[test]
    fn every_way_a_row_can_be_wrong() {
        assert!(error("{").starts_with("not valid JSON"));
        assert!(error("[1]").starts_with("unknown form"));
        assert!(error("{}").starts_with("unknown form"));
        assert!(error(r#"{"text": "x"}"#).contains("keys [text]"));
        assert!(error(r#"{"prompt": "x"}"#).contains("`completion` is missing"));
        assert!(error(r#"{"prompt": "x", "completion": ""}"#).contains("`completion` is empty"));
        assert!(error(r#"{"prompt": 3, "completion": "a"}"#)
            .contains("`prompt` is a number, expected a text"));
        assert!(error(r#"{"instruction": "x"}"#).contains("`answer` is missing"));
        assert!(error(r#"{"instruction": "x", "answer": ""}"#).contains("`answer` is empty"));
        assert!(error(r#"{"messages": []}"#).contains("not \"none\""));
        assert!(error(r#"{"messages": [{"role": "user", "content": "x"}]}"#).contains("\"user\""));
        assert!(error(r#"{"messages": [{"role": "assistant", "content": ""}]}"#).contains("empty"));
        assert!(error(r#"{"messages": [{"role": "user"}]}"#).contains("content"));
        assert!(
            error(r#"{"prompt": "x", "completion": "a", "choices": ["A", "b"]}"#)
                .contains("\"a\" is not among `choices`")
        );
    }
}
