//! Chat templates: the model's own Jinja template, rendered by minijinja.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{context, Environment, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};

use crate::{jinja, Error, Model};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// What `role` said.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// What a model is given to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text as it stands.
    Plain(String),
    /// A conversation, to be rendered by the model's chat template.
    Chat(Vec<Message>),
}

impl Prompt {
    /// The text that the model is given: as it stands, or the conversation rendered up to the
    /// point where the assistant speaks.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] for a conversation without a template, or one that the
    /// template refuses.
    pub fn text(&self, template: Option<&ChatTemplate>) -> Result<String, Error> {
        match self {
            Self::Plain(text) => Ok(text.clone()),
            Self::Chat(messages) => needed(template)?.render(messages, true),
        }
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Plain(text)
    }
}

impl From<&[Message]> for Prompt {
    fn from(messages: &[Message]) -> Self {
        Self::Chat(messages.to_vec())
    }
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Self::Chat(messages)
    }
}

/// The template that a conversation cannot do without.
pub(crate) fn needed(template: Option<&ChatTemplate>) -> Result<&ChatTemplate, Error> {
    template.ok_or_else(|| {
        Error::ChatTemplate("a conversation needs the model's chat template".to_owned())
    })
}

/// A compiled chat template with the special tokens that templates refer to.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// The template that the model carries.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when it has none, or one that is not valid Jinja.
    pub fn from_model(model: &Model) -> Result<Self, Error> {
        let source = model.chat_template().ok_or_else(|| {
            Error::ChatTemplate(format!(
                "{} carries none; give the prompt as plain text",
                model.path().display()
            ))
        })?;
        let text = |token: Option<i32>| token.map_or(String::new(), |t| model.token_text(t));
        Self::new(&source, text(model.bos()), text(model.eos()))
    }

    /// A template from its source and the texts of the special tokens.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when it is not valid Jinja.
    pub fn new(source: &str, bos: String, eos: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up for chat templates.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.expect("Jinja's own delimiters"));
        environment.set_unknown_method_callback(unknown_method_callback);
        jinja::extend(&mut environment);
        environment
            .add_template_owned(NAME, jinja::without_generation(source))
            .map_err(|error| Error::ChatTemplate(format!("not valid Jinja: {error}")))?;
        Ok(Self {
            environment,
            bos,
            eos,
        })
    }

    /// Renders a conversation; `add_generation_prompt` opens the assistant's turn.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when the template fails or refuses the conversation.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => Serde(messages),
                    add_generation_prompt,
                    bos_token => self.bos.as_str(),
                    eos_token => self.eos.as_str(),
                    // Given as none by transformers, and asked for by some templates.
                    tools => Value::from(()),
                    documents => Value::from(()),
                })
            })
            .map_err(|error| Error::ChatTemplate(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}\
        {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
        {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn renders_turns_and_opens_the_assistants() {
        let template = ChatTemplate::new(CHATML, String::new(), String::new()).unwrap();
        let messages = [
            Message::new("user", "Hi"),
            Message::new("assistant", "Hello"),
        ];
        assert_eq!(
            template.render(&messages[..1], true).unwrap(),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(
            template.render(&messages, false).unwrap(),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
        );
    }

    #[test]
    fn python_methods_and_refusals_work() {
        let source = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}\
            {% endif %}{{ messages[0].content.strip() }}{{ eos_token }}";
        let template = ChatTemplate::new(source, String::new(), "</s>".into()).unwrap();
        assert_eq!(
            template
                .render(&[Message::new("user", " x ")], false)
                .unwrap(),
            "x</s>"
        );
        let error = template
            .render(&[Message::new("system", "x")], false)
            .unwrap_err();
        assert!(error.to_string().contains("user first"), "{error}");
    }

    #[test]
    fn a_broken_template_is_an_error() {
        assert!(ChatTemplate::new("{% for %}", String::new(), String::new()).is_err());
    }
}
