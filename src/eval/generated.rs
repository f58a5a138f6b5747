//! Metrics of answers that the model writes, several rows at once.

use super::task::{Item, Task};
use super::{bleu, rouge, Metric, Prediction};
use crate::context::Context;
use crate::generate::generate;
use crate::model::Token;
use crate::sampler::SamplerParams;
use crate::Error;

/// Generates every answer greedily and scores it. The answer is what the model says before
/// it ends; when every accepted text of the row is a single line, only the first line
/// counts.
pub(super) fn predictions(
    task: &Task,
    context: &mut Context,
    mut done: impl FnMut(usize),
) -> Result<Vec<Prediction>, Error> {
    let model = context.model().clone();
    let prompts: Vec<Vec<Token>> = task.items.iter().map(|item| item.prompt.clone()).collect();
    let mut texts: Vec<Vec<u8>> = vec![Vec::new(); prompts.len()];
    let mut started = 0;
    generate(
        context,
        &prompts,
        task.params.n_predict,
        &SamplerParams::greedy(),
        |row, token| {
            if texts[row].is_empty() {
                started += 1;
                done(started);
            }
            texts[row].extend(model.token_to_piece(token));
            !(single_line(&task.items[row]) && first_line_ended(&texts[row]))
        },
    )?;
    let rows = task.items.iter().zip(&texts);
    Ok(rows
        .map(|(item, text)| {
            let text = String::from_utf8_lossy(text);
            let text = text.trim();
            let answer = match single_line(item) {
                true => text.lines().next().unwrap_or(""),
                false => text,
            };
            predict(task, item, answer.trim())
        })
        .collect())
}

fn predict(task: &Task, item: &Item, answer: &str) -> Prediction {
    match task.params.metric {
        Metric::Match => {
            let named = first_named(answer, &task.choices_of(item).texts);
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
        _ => Prediction::accuracy(item, answer),
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

/// Whether a line break follows something other than white space.
fn first_line_ended(text: &[u8]) -> bool {
    let start = text
        .iter()
        .position(|b| !b.is_ascii_whitespace())
        .unwrap_or(text.len());
    text[start..].contains(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_after_its_text_only() {
        assert!(!first_line_ended(b"\n\n"));
        assert!(!first_line_ended(b"\n x"));
        assert!(first_line_ended(b"\n x\n"));
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
