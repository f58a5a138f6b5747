//! From rows to tokens: what the model is given, and what of it is learned.
//!
//! What is trained must be what is served. So a prompt's tokens are those of the prompt alone,
//! as inference is given it; what follows are the tokens of prompt and response read as one
//! text, where that begins with the prompt's own; and targets end where generation would.

mod check;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use check::check_rendered;

use super::{Conversation, Form, Row, RowError};
use crate::chat::{self, ChatTemplate, Message};
use crate::model::{SpecialTokens, Token};
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

impl Turns {
    /// Its name on command lines and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::All => "all",
        }
    }
}

/// A row, or a part of its conversation, as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// A text within another: nothing is added around it; with `parse`, it may name control tokens.
fn within(parse: bool) -> SpecialTokens {
    SpecialTokens { add: false, parse }
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
    match &row.form {
        Form::Plain(prompt) => Ok(vec![plain(prompt, &row.completion, vocabulary)?]),
        Form::Chat(conversation) => {
            let written = Written::new(conversation, vocabulary, template)?;
            check_rendered(
                &written.messages,
                conversation.tools.as_ref(),
                written.template,
            )?;
            written.examples(turns)
        }
    }
}

/// The tokens of another completion of a row whose prompt has the tokens `given`, without the
/// one that would end it.
///
/// # Errors
/// As [`encode`].
pub fn choice_tokens(
    row: &Row,
    given: &[Token],
    choice: &str,
    vocabulary: &dyn Vocabulary,
    template: Option<&ChatTemplate>,
) -> Result<Vec<Token>, RowError> {
    let row = match &row.form {
        Form::Plain(prompt) => return continuation(prompt, given, choice, false, vocabulary),
        Form::Chat(_) => row.with_completion(choice),
    };
    let Form::Chat(conversation) = &row.form else {
        unreachable!("completions do not change a row's form")
    };
    let written = Written::new(conversation, vocabulary, template)?;
    let last = written.messages.len() - 1;
    let turn = written.turn(last)?;
    let mut tokens = written.target(last, &turn, given)?.0;
    tokens.pop_if(|token| vocabulary.is_eog(*token));
    Ok(tokens)
}

fn plain(prompt: &str, completion: &str, vocabulary: &dyn Vocabulary) -> Result<Example, RowError> {
    let mut tokens = vocabulary.tokenize(prompt, SpecialTokens::PROMPT)?;
    let n_prompt = tokens.len();
    tokens.extend(continuation(
        prompt, &tokens, completion, false, vocabulary,
    )?);
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
        targets: std::iter::once(n_prompt..tokens.len()).collect(),
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
    let alone = vocabulary.tokenize(text, within(special))?;
    // What spells a control token is to be text.
    let spells = !special && vocabulary.tokenize(text, within(true))? != alone;
    if !spells {
        let together = vocabulary.tokenize(&format!("{before}{text}"), SpecialTokens::PROMPT)?;
        if let Some(rest) = together.strip_prefix(given) {
            return Ok(rest.to_vec());
        }
    }
    let anchor = vocabulary.tokenize("\n", within(special))?;
    let anchored = vocabulary.tokenize(&format!("\n{text}"), within(special))?;
    Ok(anchored
        .strip_prefix(anchor.as_slice())
        .map_or(alone, <[Token]>::to_vec))
}

/// A text that no template and no data hold.
const NOWHERE: &str = "\u{2063}jola\u{2063}";

/// A conversation and what writes it.
struct Written<'a> {
    conversation: &'a Conversation,
    messages: Vec<Message>,
    vocabulary: &'a dyn Vocabulary,
    template: &'a ChatTemplate,
}

/// A response within a rendered conversation: its first byte and the one after its last.
struct Turn {
    open: String,
    closed: String,
}

/// What `text` goes on with where it leaves `other`, cut to what a message can show.
fn beyond(text: &str, other: &str) -> String {
    const SHOWN: usize = 24;
    let both = text.chars().zip(other.chars());
    let same = both.take_while(|(own, others)| own == others).count();
    text.chars().skip(same).take(SHOWN).collect()
}

impl<'a> Written<'a> {
    fn new(
        conversation: &'a Conversation,
        vocabulary: &'a dyn Vocabulary,
        template: Option<&'a ChatTemplate>,
    ) -> Result<Self, RowError> {
        Ok(Self {
            conversation,
            messages: conversation.all(),
            vocabulary,
            template: chat::needed(template)?,
        })
    }

    fn render(&self, messages: &[Message], open: bool) -> Result<String, RowError> {
        let tools = self.conversation.tools.as_ref();
        Ok(self.template.render_with(messages, tools, open)?)
    }

    /// The turn of message `index` when it is the last one.
    fn turn(&self, index: usize) -> Result<Turn, RowError> {
        let open = self.render(&self.messages[..index], true)?;
        let closed = self.render(&self.messages[..=index], false)?;
        if !closed.starts_with(&open) {
            return Err(RowError::OpensOtherwise {
                open: beyond(&open, &closed),
                closed: beyond(&closed, &open),
            });
        }
        Ok(Turn { open, closed })
    }

    fn examples(&self, turns: Turns) -> Result<Vec<Example>, RowError> {
        let last = self.messages.len() - 1;
        let learned = |index: &usize| {
            let message = &self.messages[*index];
            // An empty turn has nothing to learn but to say nothing.
            let says = !message.content().is_empty() || message.calls_tools();
            message.role() == "assistant"
                && says
                && message.is_trained()
                && (turns == Turns::All || *index == last)
        };
        let mut examples: Vec<Example> = Vec::new();
        for index in (0..=last).filter(learned) {
            let turn = self.turn(index)?;
            let given = self
                .vocabulary
                .tokenize(&turn.open, SpecialTokens::PROMPT)?;
            let (target, notes) = self.target(index, &turn, &given)?;
            let start = given.len();
            // It goes on from the turn before it if that stands there as it was learned.
            let open = examples
                .last_mut()
                .filter(|open| given.starts_with(&open.tokens));
            let example = match open {
                Some(example) => example,
                None => {
                    examples.push(Example::default());
                    examples.last_mut().expect("just pushed")
                }
            };
            example.tokens = given;
            example.tokens.extend(target);
            example.targets.push(start..example.tokens.len());
            example.lead = self.lead(index, &turn.open)?;
            example.notes.extend(notes);
        }
        match examples.is_empty() {
            true => Err(RowError::NoWeight),
            false => Ok(examples),
        }
    }

    /// The tokens of a turn up to the first that ends generation, and what is not among them.
    fn target(
        &self,
        index: usize,
        turn: &Turn,
        given: &[Token],
    ) -> Result<(Vec<Token>, Vec<Note>), RowError> {
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
        if !text.contains(content.trim()) {
            notes.push(Note::LeftOut);
        }
        let spelled = vocabulary.tokenize(content, within(true))?;
        if spelled.iter().any(|token| vocabulary.is_eog(*token)) {
            notes.push(Note::EndInside);
        }
        Ok((tokens, notes))
    }

    /// What the template writes between the beginning of a turn and its text: found with a
    /// text that occurs nowhere else.
    fn lead(&self, index: usize, open: &str) -> Result<String, RowError> {
        let mut messages = self.messages[..=index].to_vec();
        messages[index].set_content(NOWHERE);
        let marked = self.render(&messages, false)?;
        let text = marked.strip_prefix(open).unwrap_or_default();
        Ok(text
            .split_once(NOWHERE)
            .map_or("", |(lead, _)| lead)
            .to_owned())
    }
}
