//! Rows of training and evaluation data, and their tokens.
//!
//! | form | prompt | completion |
//! |---|---|---|
//! | `{"prompt", "completion"}` | as it stands | as it stands |
//! | `{"messages": [{"role", "content"}, …]}` | the messages before an assistant's | that message, through the chat template |
//! | `{"instruction", "input", "output", "answer"}` | JoLA's instruction prompt | `answer`, or `output` without it |
//!
//! Any form may carry `"references"`, a list of texts that are right as well, and `"choices"`,
//! the texts that an evaluation chooses from, the completion among them. Conversations may
//! carry `"tools"`, and their messages whatever the chat template knows.
//!
//! Nothing that a row says is dropped in silence: a key that changes a conversation and that
//! the form, or the model's template, has no place for is an error that names it.

mod encode;
mod error;
mod file;
mod json;
mod message;
mod row;

pub use encode::{check_rendered, choice_tokens, encode, Example, Note, Turns};
pub use error::{DataError, RowError};
pub use file::{read_rows, read_text};
pub use message::parse_messages;
pub use row::{instruction_prompt, parse_row};

use serde_json::Value;

use crate::chat::Message;

/// What a row is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A prompt as it stands, which the completion follows.
    Plain(String),
    /// A conversation, to be rendered by the model's chat template.
    Chat(Conversation),
}

/// A conversation up to the point where the assistant speaks last, and what it says there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The messages before the last one.
    pub messages: Vec<Message>,
    /// The assistant's last message.
    pub answer: Message,
    /// The tools that the assistant may call, as the template takes them.
    pub tools: Option<Value>,
}

impl Conversation {
    /// All messages, the answer last.
    pub fn all(&self) -> Vec<Message> {
        let mut all = self.messages.clone();
        all.push(self.answer.clone());
        all
    }
}

/// One example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the model is given, and in a conversation also what it answers.
    pub form: Form,
    /// What it should answer. Empty only where a message calls tools and says nothing.
    pub completion: String,
    /// Other right answers, often empty.
    pub references: Vec<String>,
    /// Texts to choose from, the completion among them; often empty.
    pub choices: Vec<String>,
    /// Line of the file, from 1.
    pub line: usize,
}

impl Row {
    /// Whether the row needs the model's chat template.
    pub fn is_chat(&self) -> bool {
        matches!(self.form, Form::Chat(_))
    }

    /// The same row with a plain prompt turned into one user message.
    pub fn into_chat(self) -> Row {
        let form = match self.form {
            Form::Plain(text) => Form::Chat(Conversation {
                messages: vec![Message::new("user", text)],
                answer: Message::new("assistant", self.completion.as_str()),
                tools: None,
            }),
            chat => chat,
        };
        Row { form, ..self }
    }

    /// The same row with another completion.
    pub fn with_completion(&self, completion: &str) -> Row {
        let mut row = self.clone();
        row.completion = completion.to_owned();
        if let Form::Chat(conversation) = &mut row.form {
            conversation.answer.set_content(completion);
        }
        row
    }
}
