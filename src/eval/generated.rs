//! Metrics of answers that the model writes, several rows at once.

use std::sync::Arc;

use jola_edit::EditSet;

use super::task::{Item, Task};
use super::{bleu, rouge, Metric, Prediction};
use crate::context::Context;
use crate::generate::{generate_each, Generated, Request};
use crate::Error;

/// Generates every answer greedily and scores it, under each of `sets` (`None`: the context's
/// own edits). The answer is what the model says before it ends, without what the chat template
/// puts before every answer; when every accepted text of the row is a single line, only the
/// first line counts.
pub(super) fn predictions(
    task: &Task,
    context: &mut Context,
    sets: &[Option<Arc<EditSet>>],
    mut done: impl FnMut(usize),
) -> Result<Vec<Vec<Prediction>>, Error> {
    let model = context.model().clone();
    let requests: Vec<Request> = task
        .items
        .iter()
        .flat_map(|item| {
            sets.iter().map(|edits| Request {
                edits: edits.clone(),
                edited: task.params.edited,
                n_predict: task.params.n_predict,
                ..Request::new(item.prompt.clone())
            })
        })
        .collect();
    let item_of = |request: usize| &task.items[request / sets.len()];
    let mut texts: Vec<Vec<u8>> = vec![Vec::new(); requests.len()];
    let mut started = 0;
    let exact = task.params.metric == Metric::Exact;
    let generated = generate_each(context, requests, |request, token| {
        if texts[request].is_empty() {
            started += 1;
            done(started);
        }
        // The sampler chooses from the vocabulary: every token has a piece.
        texts[request].extend(model.token_to_piece(token).unwrap_or_default());
        let item = item_of(request);
        !(single_line(item) && line_ended(said(item, &texts[request]), exact))
    })?;
    let mut predictions = vec![Vec::with_capacity(task.items.len()); sets.len()];
    for (request, (text, Generated { ended, .. })) in texts.iter().zip(&generated).enumerate() {
        let item = item_of(request);
        let text = String::from_utf8_lossy(said(item, text));
        let text = text.trim();
        let answer = match single_line(item) {
            true => text.lines().next().unwrap_or(""),
            false => text,
        };
        let whole = *ended && answer.trim() == text;
        predictions[request % sets.len()].push(predict(task, item, answer.trim(), whole));
    }
    Ok(predictions)
}

/// An answer without what the template puts before it; nothing while that is still being written.
fn said<'a>(item: &Item, text: &'a [u8]) -> &'a [u8] {
    let lead = item.lead.trim().as_bytes();
    let text = text.trim_ascii_start();
    match text.strip_prefix(lead) {
        Some(rest) => rest,
        None if lead.starts_with(text) => &[],
        None => text,
    }
}

/// `whole`: the model ended its answer itself, and said nothing else.
fn predict(task: &Task, item: &Item, answer: &str, whole: bool) -> Prediction {
    match task.params.metric {
        Metric::Exact => Prediction::accuracy(item, answer).and(whole),
        Metric::Match => {
            let named = first_named(answer, &item.choices.texts);
            Prediction::accuracy(item, named.unwrap_or(""))
        }
        Metric::Bleu => Prediction {
            numbers: bleu::counts(answer, &item.accepted).to_vec(),
            ..Prediction::new(item, Some(answer))
        },
        Metric::RougeL => {
            let score = rouge::l(answer, &item.accepted);
            Prediction {
                score: Some(score),
                numbers: vec![score],
                ..Prediction::new(item, Some(answer))
            }
        }
        Metric::Choice | Metric::Perplexity => unreachable!("nothing is generated for these"),
    }
}

/// The choice that occurs first in `answer`; of several at one place the longest.
fn first_named<'a>(answer: &str, choices: &'a [String]) -> Option<&'a str> {
    let named = choices.iter().map(|choice| choice.trim());
    named
        .filter_map(|choice| Some((answer.find(choice)?, choice)))
        .min_by_key(|(place, choice)| (*place, std::cmp::Reverse(choice.len())))
        .map(|(_, choice)| choice)
}

fn single_line(item: &Item) -> bool {
    item.accepted.iter().all(|text| !text.trim().contains('\n'))
}

/// Whether a line break follows something other than white space; with `and_more`, whether
/// something follows that line break, too: until then the model may still end its answer.
fn line_ended(text: &[u8], and_more: bool) -> bool {
    let text = text.trim_ascii_start();
    let rest = text
        .iter()
        .position(|byte| *byte == b'\n')
        .map(|end| &text[end..]);
    rest.is_some_and(|rest| !and_more || !rest.trim_ascii().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its line breaks must not end an answer that has not begun.
    #[test]
    fn what_the_template_puts_before_an_answer_is_no_answer() {
        let item = Item {
            prompt: vec![1],
            response: Vec::new(),
            accepted: vec!["red".into()],
            lead: "<think>\n\n</think>\n\n".into(),
            choices: Default::default(),
            line: 1,
        };
        for (text, answer) in [
            ("<think>\n", ""),
            ("<think>\n\n</think>", ""),
            ("<think>\n\n</think>\n\nred", "\n\nred"),
            ("red", "red"),
            ("<think>\nwell", "<think>\nwell"),
        ] {
            assert_eq!(said(&item, text.as_bytes()), answer.as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_line_ends_after_its_text_only() {
        assert!(!line_ended(b"\n\n", false));
        assert!(!line_ended(b"\n x", false));
        assert!(line_ended(b"\n x\n", false));
        assert!(!line_ended(b"\n x\n \n", true));
        assert!(line_ended(b"\n x\n y", true));
    }

    #[test]
    fn the_first_choice_named_counts() {
        let choices = ["true", "false", "answer1", "answer10", " not sure"].map(str::to_owned);
        let named = |answer| first_named(answer, &choices);
        assert_eq!(
            named("the correct answer is false, not true"),
            Some("false")
        );
        assert_eq!(named("answer10"), Some("answer10"));
        assert_eq!(named("answer1 or answer10"), Some("answer1"));
        assert_eq!(named("I am not sure"), Some("not sure"));
        assert_eq!(named("True"), None);
    }
}
