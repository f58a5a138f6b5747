//! From rows to tokens: what the model is given, and what of it is learned.
//!
//! What is trained must be what is served. So a prompt's tokens are those of the prompt alone,
//! as inference is given it; what follows are the tokens of prompt and response read as one
//! text, where that begins with the prompt's own; and targets end where generation would.

use std::ops::Range;

use serde_json::Value;

use super::{Conversation, Prompt, Row, RowError};
use crate::chat::{ChatTemplate, Message};
use crate::model::Token;
use crate::Vocabulary;

/// Which of the assistant's turns are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turns {
    /// The last one.
    Last,
    /// Every one whose `weight` is not 0.
    #[default]
    All,
}

/// A row, or a part of its conversation, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What is given and what is learned, in order.
    pub tokens: Vec<Token>,
    /// The parts of `tokens` that are learned, ascending and at least one: responses with the
    /// token that ends each. All before the first is exactly what inference is given.
    pub targets: Vec<Range<usize>>,
    /// What the chat template writes before the text of the last response, such as an empty
    /// block of thoughts; empty for plain rows.
    pub lead: String,
    /// What of the wanted response is not learned.
    pub notes: Vec<Note>,
}

/// Something about a row's targets that its writer should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// Nothing among the targets ends generation.
    NoEnd,
    /// The template leaves out a part of the response's text.
    LeftOut,
    /// The response spells a token that ends generation: what follows it is not learned.
    EndInside,
    /// Nothing is before the first token, so that it cannot be learned.
    NothingBefore,
}

impl Note {
    /// What it means, after the words "in these rows".
    pub fn text(self) -> &'static str {
        match self {
            Self::NoEnd => {
                "nothing in the response ends it: the chat template writes no token that ends \
                 generation, or the model has none. The edited model will not learn to stop"
            }
            Self::LeftOut => {
                "the chat template leaves out a part of the response (thoughts, for example), \
                 which is not learned"
            }
            Self::EndInside => {
                "the response spells a token that ends generation; what follows it is not learned"
            }
            Self::NothingBefore => {
                "the prompt is empty and the model puts nothing before it: the first token of \
                 the response cannot be learned"
            }
        }
    }
}

/// Renders a conversation by the model's template.
pub(super) fn render(
    template: Option<&ChatTemplate>,
    messages: &[Message],
    tools: Option<&Value>,
    open: bool,
) -> Result<String, RowError> {
    let missing = || RowError::Template("a conversation needs the model's chat template".into());
    let template = template.ok_or_else(missing)?;
    Ok(template.render_with(messages, tools, open)?)
}

/// The tokens that inference is given for a row.
///
/// # Errors
/// Those of the chat template and the tokenizer.
pub fn prompt_tokens(
    row: &Row,
    vocabulary: &dyn Vocabulary,
    template: Option<&ChatTemplate>,
) -> Result<Vec<Token>, RowError> {
    Ok(vocabulary.tokenize(&row.prompt_text(template)?, true, true)?)
}

/// Tokenises a row for training. A plain response is followed by the model's end-of-text
/// token, one of a conversation by what the template ends it with. A turn that the template
/// writes otherwise when it is not the last becomes an example of its own.
///
/// # Errors
/// Those of the chat template and the tokenizer; [`RowError::NotRendered`] for what the
/// template has no place for.
pub fn encode(
    row: &Row,
    vocabulary: &dyn Vocabulary,
    template: Option<&ChatTemplate>,
    turns: Turns,
) -> Result<Vec<Example>, RowError> {
    match &row.prompt {
        Prompt::Plain(prompt) => Ok(vec![plain(prompt, &row.completion, vocabulary)?]),
        Prompt::Chat(conversation) => {
            let written = Written {
                conversation,
                messages: conversation.all(),
                vocabulary,
                template,
            };
            written.check()?;
            written.examples(turns)
        }
    }
}

fn plain(prompt: &str, completion: &str, vocabulary: &dyn Vocabulary) -> Result<Example, RowError> {
    let mut tokens = vocabulary.tokenize(prompt, true, true)?;
    let n_prompt = tokens.len();
    tokens.extend(continuation(prompt, &tokens, completion, false, vocabulary)?);
    let eos = vocabulary.eos();
    tokens.extend(eos);
    let mut notes = Vec::new();
    if n_prompt == 0 {
        notes.push(Note::NothingBefore);
    }
    if eos.is_none() {
        notes.push(Note::NoEnd);
    }
    Ok(Example {
        targets: vec![n_prompt..tokens.len()],
        tokens,
        lead: String::new(),
        notes,
    })
}

/// The tokens of `text` after `before`, whose own tokens are `given`. `special` lets the text
/// name control tokens.
///
/// A text read alone may get a space in front (SentencePiece), or be cut otherwise. So both
/// are read as one text; where the first token of `text` would grow together with the end of
/// `before`, which inference cannot have, the text is read alone, after a line break if that
/// keeps it from getting a space.
pub(crate) fn continuation(
    before: &str,
    given: &[Token],
    text: &str,
    special: bool,
    vocabulary: &dyn Vocabulary,
) -> Result<Vec<Token>, RowError> {
    let alone = vocabulary.tokenize(text, false, special)?;
    // What spells a control token is to be text.
    let spells = !special && vocabulary.tokenize(text, false, true)? != alone;
    if !spells {
        let together = vocabulary.tokenize(&format!("{before}{text}"), true, true)?;
        if let Some(rest) = together.strip_prefix(given) {
            return Ok(rest.to_vec());
        }
    }
    let anchor = vocabulary.tokenize("\n", false, special)?;
    let anchored = vocabulary.tokenize(&format!("\n{text}"), false, special)?;
    Ok(anchored.strip_prefix(anchor.as_slice()).map_or(alone, <[Token]>::to_vec))
}

/// A conversation and what writes it.
struct Written<'a> {
    conversation: &'a Conversation,
    messages: Vec<Message>,
    vocabulary: &'a dyn Vocabulary,
    template: Option<&'a ChatTemplate>,
}

/// A response within a rendered conversation: its first byte and the one after its last.
struct Turn {
    open: String,
    closed: String,
}

impl Written<'_> {
    fn render(&self, messages: &[Message], open: bool) -> Result<String, RowError> {
        render(self.template, messages, self.conversation.tools.as_ref(), open)
    }

    /// Refuses what the template writes nothing of.
    fn check(&self) -> Result<(), RowError> {
        let full = self.render(&self.messages, false)?;
        if self.conversation.tools.is_some() && render(self.template, &self.messages, None, false)? == full {
            return Err(RowError::NotRendered {
                key: "tools".into(),
            });
        }
        let last = self.messages.len() - 1;
        for (index, message) in self.messages.iter().enumerate() {
            let named = |key: &str| RowError::NotRendered {
                key: format!("{key} of message {}", index + 1),
            };
            // Thoughts of earlier turns are left out on purpose by many templates.
            let keys = ["tool_calls", "reasoning_content"];
            for key in keys.iter().take(if index == last { 2 } else { 1 }) {
                let Some(less) = message.without(key) else {
                    continue;
                };
                if self.with(index, less, false)? == full {
                    return Err(named(key));
                }
            }
            let spoken = !message.content().trim().is_empty() && message.role() != "assistant";
            if spoken {
                let mut other = message.clone();
                other.set_content(&format!("{} {}", message.content(), message.role()));
                if self.with(index, other, false)? == full {
                    return Err(named("content"));
                }
            }
        }
        Ok(())
    }

    /// The whole conversation with another message in one place.
    fn with(&self, index: usize, message: Message, open: bool) -> Result<String, RowError> {
        let mut messages = self.messages.clone();
        messages[index] = message;
        self.render(&messages, open)
    }

    /// The turn of message `index` when it is the last one.
    fn turn(&self, index: usize) -> Result<Turn, RowError> {
        let open = self.render(&self.messages[..index], true)?;
        let closed = self.render(&self.messages[..=index], false)?;
        if !closed.starts_with(&open) {
            return Err(RowError::Template(
                "the rendered conversation does not begin with its own prompt; \
                 use plain prompts with this model"
                    .into(),
            ));
        }
        Ok(Turn { open, closed })
    }

    fn examples(&self, turns: Turns) -> Result<Vec<Example>, RowError> {
        let last = self.messages.len() - 1;
        let learned = |index: &usize| {
            let message = &self.messages[*index];
            message.role() == "assistant"
                && message.is_trained()
                && (turns == Turns::All || *index == last)
        };
        let mut examples: Vec<Example> = Vec::new();
        for index in (0..=last).filter(learned) {
            let turn = self.turn(index)?;
            let given = self.vocabulary.tokenize(&turn.open, true, true)?;
            let (target, lead, notes) = self.target(index, &turn, &given)?;
            let start = given.len();
            // It goes on from the turn before it if that stands there as it was learned.
            let open = examples.last_mut().filter(|open| given.starts_with(&open.tokens));
            let example = match open {
                Some(example) => example,
                None => {
                    examples.push(Example {
                        tokens: Vec::new(),
                        targets: Vec::new(),
                        lead: String::new(),
                        notes: Vec::new(),
                    });
                    examples.last_mut().expect("just pushed")
                }
            };
            example.tokens = given;
            example.tokens.extend(target);
            example.targets.push(start..example.tokens.len());
            example.lead = lead;
            example.notes.extend(notes);
        }
        match examples.is_empty() {
            true => Err(RowError::NoWeight),
            false => Ok(examples),
        }
    }

    /// The tokens of a turn up to the first that ends generation, what the template writes
    /// before its text, and what is not among the tokens.
    fn target(
        &self,
        index: usize,
        turn: &Turn,
        given: &[Token],
    ) -> Result<(Vec<Token>, String, Vec<Note>), RowError> {
        let text = &turn.closed[turn.open.len()..];
        let vocabulary = self.vocabulary;
        let mut tokens = continuation(&turn.open, given, text, true, vocabulary)?;
        let mut notes = Vec::new();
        if given.is_empty() {
            notes.push(Note::NothingBefore);
        }
        match tokens.iter().position(|token| vocabulary.is_eog(*token)) {
            Some(end) => tokens.truncate(end + 1),
            None => notes.push(Note::NoEnd),
        }
        let content = self.messages[index].content();
        let said = content.trim();
        let place = text.find(said);
        if place.is_none() {
            notes.push(Note::LeftOut);
        }
        let spelled = vocabulary.tokenize(content, false, true)?;
        if spelled.iter().any(|token| vocabulary.is_eog(*token)) {
            notes.push(Note::EndInside);
        }
        let lead = text[..place.unwrap_or(0)].to_owned();
        Ok((tokens, lead, notes))
    }
}
