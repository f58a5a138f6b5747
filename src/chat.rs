//! Chat templates: the model's own Jinja template, rendered by minijinja.

use jola_edit::sidecar::text_sha256;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{context, Environment};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{jinja, Error, Model};

/// One message of a conversation: a role, a text, and whatever else its writer and the
/// template know of, such as `tool_calls`, `name` or `reasoning_content`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Message {
    /// `role` and `content` are there, and are texts.
    map: Map<String, Value>,
}

impl Message {
    /// A message of `system`, `user`, `assistant`, or what else the template knows.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let mut map = Map::new();
        map.insert("role".into(), role.into().into());
        map.insert("content".into(), content.into().into());
        Self { map }
    }

    /// A message of a JSON object in which `role` and `content` are texts.
    pub(crate) fn from_map(map: Map<String, Value>) -> Self {
        Self { map }
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        self.map["role"].as_str().unwrap_or_default()
    }

    /// What is said.
    pub fn content(&self) -> &str {
        self.map["content"].as_str().unwrap_or_default()
    }

    /// Replaces what is said.
    pub fn set_content(&mut self, content: &str) {
        self.map.insert("content".into(), content.into());
    }

    /// Whether the message calls tools.
    pub fn calls_tools(&self) -> bool {
        self.map
            .get("tool_calls")
            .is_some_and(|calls| calls != &Value::Array(Vec::new()))
    }

    /// Whether it may be learned: its `weight` is not 0.
    pub fn is_trained(&self) -> bool {
        self.map.get("weight").and_then(Value::as_f64) != Some(0.0)
    }

    /// The same message without `key`, or nothing when it does not have it.
    pub(crate) fn without(&self, key: &str) -> Option<Self> {
        let mut message = self.clone();
        message.map.remove(key).map(|_| message)
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
    /// The tokenizer puts the beginning-of-sequence token before a text by itself.
    adds_bos: bool,
    /// Of the template's text.
    sha256: String,
}

/// A template may run this many instructions: a thousand messages take less than a tenth.
const FUEL: u64 = 20_000_000;

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
        let text = |token: Option<i32>| token.map_or(Ok(String::new()), |t| model.token_text(t));
        let template = Self::new(&source, text(model.bos())?, text(model.eos())?);
        let template = template.map_err(|error| match error {
            Error::ChatTemplate(reason) => {
                Error::ChatTemplate(format!("{}: {reason}", model.path().display()))
            }
            other => other,
        })?;
        Ok(template.with_bos_added(model.adds_bos()))
    }

    /// The same template for a tokenizer that puts the beginning-of-sequence token before a
    /// text by itself, or does not: where it does, the one that the template writes is left
    /// out, as llama.cpp does.
    pub fn with_bos_added(mut self, adds_bos: bool) -> Self {
        self.adds_bos = adds_bos;
        self
    }

    /// A template from its source and the texts of the special tokens.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when it is not valid Jinja.
    pub fn new(source: &str, bos: String, eos: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
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
            adds_bos: false,
            sha256: text_sha256(source),
        })
    }

    /// SHA-256 of the template's text, as sidecars note it.
    pub fn sha256(&self) -> &str {
        &self.sha256
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
        self.render_with(messages, None, add_generation_prompt)
    }

    /// [`Self::render`] with the tools that the assistant may call, a list as OpenAI's API has
    /// it.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_with(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let text = self.environment.get_template(NAME).and_then(|template| {
            template.render(context! {
                messages => Serde(messages),
                add_generation_prompt,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
                // Given as none by transformers, and asked for by some templates.
                tools => Serde(tools),
                documents => minijinja::Value::from(()),
            })
        });
        let text = text.map_err(|error| Error::ChatTemplate(error.to_string()))?;
        match text.strip_prefix(self.bos.as_str()) {
            Some(rest) if self.adds_bos => Ok(rest.to_owned()),
            _ => Ok(text),
        }
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

    #[test]
    fn a_template_has_fuel_for_what_is_sensible() {
        let endless =
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(endless, String::new(), String::new()).unwrap();
        let error = template
            .render(&[Message::new("user", "x")], false)
            .unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");

        let template = ChatTemplate::new(CHATML, String::new(), String::new()).unwrap();
        let many = vec![Message::new("user", "x"); 10_000];
        assert!(template.render(&many, false).is_ok());
    }
}
