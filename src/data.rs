//! Rows of training and evaluation data: JSON Lines in three forms, and their tokens.
//!
//! | form | prompt | completion |
//! |---|---|---|
//! | `{"prompt", "completion"}` | as it stands | as it stands |
//! | `{"messages": [{"role", "content"}, …]}` | all but the last message, through the chat template | the last message, the assistant's |
//! | `{"instruction", "input", "output", "answer"}` | JoLA's instruction prompt | `answer`, or `output` without it |
//!
//! Any form may carry `"references"`, a list of texts that are right as well, and `"choices"`,
//! the texts that an evaluation chooses from, the completion among them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::chat::{self, ChatTemplate, Message, Prompt};
use crate::model::{SpecialTokens, Token};
use crate::Vocabulary;

/// One example, as a data file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the model is given.
    pub prompt: Prompt,
    /// What it should answer; never empty.
    pub completion: String,
    /// Other right answers, often empty.
    pub references: Vec<String>,
    /// Texts to choose from, the completion among them; often empty.
    pub choices: Vec<String>,
    /// Line of the file, from 1.
    pub line: usize,
}

/// A row as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Prompt, response, and the token that ends it.
    pub tokens: Vec<Token>,
    /// How many of `tokens` are the prompt: exactly those that inference is given.
    pub n_prompt: usize,
}

/// A data file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The data file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds no row.
    #[error("{} holds no rows", path.display())]
    Empty {
        /// The data file.
        path: PathBuf,
    },
    /// A row is wrong.
    #[error("{}, line {line}: {kind}", path.display())]
    Row {
        /// The data file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        kind: RowError,
    },
}

/// What can be wrong with one row.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The line is not JSON.
    #[error("not valid JSON: {0}")]
    Json(serde_json::Error),
    /// None of the three forms.
    #[error(
        "unknown form with keys [{}]; expected \"prompt\" and \"completion\", \"messages\", \
         or \"instruction\" and \"answer\"", keys.join(", ")
    )]
    Form {
        /// The keys found.
        keys: Vec<String>,
    },
    /// A key of the form has a value of another type, such as a number for a text.
    #[error("{0}")]
    Field(serde_json::Error),
    /// There is nothing to answer.
    #[error("no completion: `{key}` is missing")]
    NoCompletion {
        /// The key that should hold it.
        key: &'static str,
    },
    /// The answer is an empty text.
    #[error("no completion: `{key}` is empty")]
    EmptyCompletion {
        /// The key that holds it.
        key: &'static str,
    },
    /// The right answer cannot be chosen.
    #[error("the completion \"{completion}\" is not among `choices`")]
    Choices {
        /// The completion, as the row has it.
        completion: String,
    },
    /// A conversation without an answer at its end.
    #[error("no completion: the last message must have the role \"assistant\", not \"{role}\"")]
    LastMessage {
        /// The last message's role, or `none`.
        role: String,
    },
}

/// The other keys of a row; unknown ones are left alone.
#[derive(Deserialize)]
struct Fields {
    prompt: Option<String>,
    completion: Option<String>,
    messages: Option<Vec<Message>>,
    instruction: Option<String>,
    input: Option<String>,
    output: Option<String>,
    answer: Option<String>,
    #[serde(default)]
    references: Vec<String>,
    #[serde(default)]
    choices: Vec<String>,
}

/// Reads the first `limit` rows of a JSON Lines file; empty lines are skipped.
///
/// # Errors
/// [`DataError`], naming the file, the line and what is missing.
pub fn read_rows(path: &Path, limit: Option<usize>) -> Result<Vec<Row>, DataError> {
    let io = |source| DataError::Io {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let mut rows = Vec::new();
    for (index, text) in BufReader::new(file).lines().enumerate() {
        if limit.is_some_and(|limit| rows.len() >= limit) {
            break;
        }
        let text = text.map_err(io)?;
        if text.trim().is_empty() {
            continue;
        }
        let line = index + 1;
        let row = parse_row(&text, line);
        rows.push(row.map_err(|kind| DataError::Row {
            path: path.to_path_buf(),
            line,
            kind,
        })?);
    }
    if rows.is_empty() {
        return Err(DataError::Empty {
            path: path.to_path_buf(),
        });
    }
    Ok(rows)
}

/// Reads one row from its JSON text.
///
/// # Errors
/// [`RowError`].
pub fn parse_row(text: &str, line: usize) -> Result<Row, RowError> {
    let value: Value = serde_json::from_str(text).map_err(RowError::Json)?;
    let keys = match &value {
        Value::Object(map) => map.keys().cloned().collect(),
        _ => Vec::new(),
    };
    if keys.is_empty() {
        return Err(RowError::Form { keys });
    }
    let fields: Fields = serde_json::from_value(value).map_err(RowError::Field)?;
    let (references, choices) = (fields.references, fields.choices);
    let (prompt, completion) = if let Some(messages) = fields.messages {
        split_conversation(messages)?
    } else if let Some(prompt) = fields.prompt {
        (
            Prompt::Plain(prompt),
            required("completion", fields.completion)?,
        )
    } else if let Some(instruction) = fields.instruction {
        let completion = match fields.answer {
            Some(answer) => required("answer", Some(answer))?,
            None => required("output", fields.output).map_err(|error| match error {
                RowError::NoCompletion { .. } => RowError::NoCompletion { key: "answer" },
                other => other,
            })?,
        };
        let prompt = instruction_prompt(&instruction, fields.input.as_deref().unwrap_or(""));
        (Prompt::Plain(prompt), completion)
    } else {
        return Err(RowError::Form { keys });
    };
    if !choices.is_empty() && !choices.contains(&completion) {
        return Err(RowError::Choices { completion });
    }
    Ok(Row {
        prompt,
        completion,
        references,
        choices,
        line,
    })
}

fn required(key: &'static str, value: Option<String>) -> Result<String, RowError> {
    match value {
        None => Err(RowError::NoCompletion { key }),
        Some(text) if text.is_empty() => Err(RowError::EmptyCompletion { key }),
        Some(text) => Ok(text),
    }
}

fn split_conversation(mut messages: Vec<Message>) -> Result<(Prompt, String), RowError> {
    match messages.pop() {
        Some(last) if last.role == "assistant" => {
            let completion = required("content", Some(last.content))?;
            Ok((Prompt::Chat(messages), completion))
        }
        last => {
            let role = last.map_or("none".to_owned(), |message| message.role);
            Err(RowError::LastMessage { role })
        }
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

impl Row {
    /// The same row with a plain prompt turned into one user message.
    pub fn into_chat(self) -> Row {
        let prompt = match self.prompt {
            Prompt::Plain(text) => Prompt::Chat(vec![Message::new("user", text)]),
            chat => chat,
        };
        Row { prompt, ..self }
    }

    /// The response as text, as far as it has one: for a conversation what the template
    /// writes after the prompt, ending as it ends a turn.
    fn response_text(
        &self,
        prompt: &str,
        template: Option<&ChatTemplate>,
    ) -> Result<String, crate::Error> {
        let Prompt::Chat(messages) = &self.prompt else {
            return Ok(self.completion.clone());
        };
        let mut messages = messages.clone();
        messages.push(Message::new("assistant", self.completion.as_str()));
        let full = chat::needed(template)?.render(&messages, false)?;
        match full.strip_prefix(prompt) {
            Some(response) => Ok(response.to_owned()),
            None => Err(crate::Error::ChatTemplate(
                "the rendered conversation does not begin with its own prompt; \
                 use plain prompts with this model"
                    .to_owned(),
            )),
        }
    }
}

/// The tokens that inference is given for a row.
///
/// # Errors
/// Those of the chat template and the tokenizer.
pub fn prompt_tokens(
    row: &Row,
    vocabulary: &dyn Vocabulary,
    template: Option<&ChatTemplate>,
) -> Result<Vec<Token>, crate::Error> {
    vocabulary.tokenize(&row.prompt.text(template)?, SpecialTokens::PROMPT)
}

/// Tokenises a row for training. The prompt's tokens are those of [`prompt_tokens`]; a plain
/// response is followed by the model's end-of-text token.
///
/// # Errors
/// Those of the chat template and the tokenizer.
pub fn encode(
    row: &Row,
    vocabulary: &dyn Vocabulary,
    template: Option<&ChatTemplate>,
) -> Result<Example, crate::Error> {
    let prompt = row.prompt.text(template)?;
    let response = row.response_text(&prompt, template)?;
    let mut tokens = prompt_tokens(row, vocabulary, template)?;
    let n_prompt = tokens.len();
    let chat = matches!(row.prompt, Prompt::Chat(_));
    let special = SpecialTokens {
        add: false,
        parse: chat,
    };
    tokens.extend(vocabulary.tokenize(&response, special)?);
    if !chat {
        tokens.extend(vocabulary.eos());
    }
    Ok(Example { tokens, n_prompt })
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

    #[test]
    fn three_forms() {
        let row = parse(r#"{"prompt": "a", "completion": " b", "references": ["c"], "id": 7}"#);
        assert_eq!(row.prompt, Prompt::Plain("a".into()));
        assert_eq!((row.completion.as_str(), row.references.len()), (" b", 1));
        assert!(row.choices.is_empty());

        let row = parse(
            r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]}"#,
        );
        assert_eq!(row.prompt, Prompt::Chat(vec![Message::new("user", "q")]));
        assert_eq!(row.completion, "x");

        let row = parse(r#"{"instruction": "do", "input": "it", "output": "long", "answer": "o"}"#);
        let Prompt::Plain(prompt) = row.prompt else {
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
        assert!(matches!(row.prompt, Prompt::Plain(p) if p.contains(":\ndo\n\n###")));
    }

    #[test]
    fn a_plain_prompt_becomes_a_user_message() {
        let row = parse(r#"{"prompt": "a", "completion": "b"}"#).into_chat();
        assert_eq!(row.prompt, Prompt::Chat(vec![Message::new("user", "a")]));
    }

    #[test]
    fn every_way_a_row_can_be_wrong() {
        assert!(error("{").starts_with("not valid JSON"));
        assert!(error("[1]").starts_with("unknown form"));
        assert!(error("{}").starts_with("unknown form"));
        assert!(error(r#"{"text": "x"}"#).contains("keys [text]"));
        assert!(error(r#"{"prompt": "x"}"#).contains("`completion` is missing"));
        assert!(error(r#"{"prompt": "x", "completion": ""}"#).contains("`completion` is empty"));
        assert!(error(r#"{"prompt": 3, "completion": "a"}"#).contains("expected a string"));
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

    #[test]
    fn files_are_read_to_the_limit_and_errors_name_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let good = r#"{"prompt": "a", "completion": "b"}"#;
        std::fs::write(&path, format!("{good}\n\n{good}\n{{\n")).unwrap();
        let rows = read_rows(&path, Some(2)).unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3]);
        let text = read_rows(&path, None).unwrap_err().to_string();
        assert!(
            text.contains("rows.jsonl, line 4: not valid JSON"),
            "{text}"
        );

        std::fs::write(&path, "\n\n").unwrap();
        assert!(matches!(
            read_rows(&path, None),
            Err(DataError::Empty { .. })
        ));
        let missing = folder.path().join("none");
        assert!(matches!(
            read_rows(&missing, None),
            Err(DataError::Io { .. })
        ));
    }
}
