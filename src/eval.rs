/*!
Scoring a model, with edits or without, on rows of a data file.

Two metrics. *Exact*: the greedy continuation of the prompt is one of the accepted texts.
*Choice*: among given texts, an accepted one is the most likely continuation.
*/

use std::time::Instant;

use serde::Serialize;

use crate::context::{Batch, Context};
use crate::generate::generate;
use crate::model::{Model, Token};
use crate::sampler::SamplerParams;
use crate::Error;

/// A row to be scored.
#[derive(Clone, Debug)]
pub struct Item {
    /// The prompt's tokens.
    pub prompt: Vec<Token>,
    /// Accepted texts, compared without white space around them.
    pub accepted: Vec<String>,
    /// Where the row stands in its file, counted from 1.
    pub line: usize,
}

/// What the model said to one row.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// The row's line.
    pub line: usize,
    /// The model's answer.
    pub answer: String,
    /// The accepted texts.
    pub accepted: Vec<String>,
    /// Whether the answer is accepted.
    pub correct: bool,
}

/// The score of a model on a set of rows.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `exact` or `choice`.
    pub metric: &'static str,
    /// Rows scored.
    pub n: usize,
    /// Rows answered with an accepted text.
    pub correct: usize,
    /// correct / n
    pub accuracy: f64,
    /// 95 % Wilson interval of the accuracy.
    pub ci95: [f64; 2],
    /// Wall time.
    pub seconds: f64,
    /// Row by row, in the order of the file.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
}

impl Report {
    fn new(metric: &'static str, predictions: Vec<Prediction>, start: Instant) -> Self {
        let n = predictions.len();
        let correct = predictions.iter().filter(|p| p.correct).count();
        Self {
            metric,
            n,
            correct,
            accuracy: correct as f64 / n.max(1) as f64,
            ci95: wilson(correct, n),
            seconds: start.elapsed().as_secs_f64(),
            predictions,
        }
    }
}

/// Generates greedily at most `n_predict` tokens per row, several rows at once, and counts
/// a row as correct when the answer is an accepted text. The answer is what the model says
/// before it ends; when every accepted text of the row is a single line, only the first
/// line counts. `done(k)` is called with the number of rows finished so far.
///
/// # Errors
/// As [`generate`].
pub fn exact(
    context: &mut Context,
    items: &[Item],
    n_predict: usize,
    mut done: impl FnMut(usize),
) -> Result<Report, Error> {
    let start = Instant::now();
    let model = context.model().clone();
    let prompts: Vec<Vec<Token>> = items.iter().map(|item| item.prompt.clone()).collect();
    let greedy = SamplerParams {
        temp: 0.0,
        ..SamplerParams::default()
    };
    let mut texts: Vec<Vec<u8>> = vec![Vec::new(); items.len()];
    let mut started = 0;
    generate(context, &prompts, n_predict, &greedy, |row, token| {
        if texts[row].is_empty() {
            started += 1;
            done(started);
        }
        texts[row].extend(model.token_to_piece(token));
        !(single_line(&items[row]) && first_line_ended(&texts[row]))
    })?;
    let predictions = items.iter().zip(&texts).map(|(item, text)| {
        let text = String::from_utf8_lossy(text);
        let text = text.trim();
        let answer = if single_line(item) {
            text.lines().next().unwrap_or("")
        } else {
            text
        };
        prediction(item, answer)
    });
    Ok(Report::new("exact", predictions.collect(), start))
}

/// Scores each of `choices` as a continuation of every row's prompt by its log-likelihood
/// (per token when `per_token`), and counts a row as correct when the best choice is an
/// accepted text. `done(k)` is called with the number of rows finished so far.
///
/// # Errors
/// [`Error::ContextFull`] when a prompt with a choice does not fit, and the errors of
/// [`Context::decode`] and [`Model::tokenize`].
pub fn choice(
    context: &mut Context,
    items: &[Item],
    choices: &[String],
    per_token: bool,
    mut done: impl FnMut(usize),
) -> Result<Report, Error> {
    let start = Instant::now();
    let model = context.model().clone();
    let candidates = choices
        .iter()
        .map(|text| model.tokenize(text, false, true))
        .collect::<Result<Vec<_>, _>>()?;
    let mut predictions = Vec::with_capacity(items.len());
    for (row, item) in items.iter().enumerate() {
        let scores = log_likelihoods(context, &item.prompt, &candidates)?;
        let score = |i: usize| match per_token {
            true => scores[i] / candidates[i].len().max(1) as f64,
            false => scores[i],
        };
        let best = (0..choices.len()).max_by(|a, b| score(*a).total_cmp(&score(*b)));
        predictions.push(prediction(item, best.map_or("", |i| choices[i].trim())));
        done(row + 1);
    }
    Ok(Report::new("choice", predictions, start))
}

/// The log-likelihood (natural logarithm) of each candidate as the continuation of
/// `prompt`. The prompt is decoded once and shared by the candidates' sequences.
///
/// # Errors
/// As [`choice`].
pub fn log_likelihoods(
    context: &mut Context,
    prompt: &[Token],
    candidates: &[Vec<Token>],
) -> Result<Vec<f64>, Error> {
    let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
    if prompt.len() + longest > context.n_ctx() {
        let (needed, n_ctx) = (prompt.len() + longest, context.n_ctx());
        return Err(Error::ContextFull { needed, n_ctx });
    }
    context.clear();
    let mut batch = Batch::new();
    for (i, &token) in prompt.iter().enumerate() {
        if batch.len() == context.n_batch() {
            context.decode(&batch)?;
            batch.clear();
        }
        batch.push(token, i, 0, i + 1 == prompt.len());
    }
    context.decode(&batch)?;
    let first = log_softmax(context.logits(-1));
    let mut scores: Vec<f64> = candidates
        .iter()
        .map(|c| c.first().map_or(0.0, |t| first[*t as usize]))
        .collect();

    // The tokens behind the first need the candidate's own sequence; sequence 0 stays the
    // prompt. As many candidates at once as there are sequences and room in a batch.
    let longer: Vec<usize> = (0..candidates.len())
        .filter(|i| candidates[*i].len() > 1)
        .collect();
    let at_once = (context.n_seq_max() - 1)
        .min(context.n_batch() / longest.max(1))
        .max(1);
    for group in longer.chunks(at_once) {
        batch.clear();
        let mut outputs = Vec::new();
        for (k, &candidate) in group.iter().enumerate() {
            let tokens = &candidates[candidate];
            context.copy_sequence(0, k + 1);
            for (i, pair) in tokens.windows(2).enumerate() {
                outputs.push((batch.len(), candidate, pair[1]));
                batch.push(pair[0], prompt.len() + i, k + 1, true);
            }
        }
        context.decode(&batch)?;
        for (index, candidate, next) in outputs {
            scores[candidate] += log_softmax(context.logits(index as i32))[next as usize];
        }
        (1..=group.len()).for_each(|sequence| context.remove_sequence(sequence));
    }
    Ok(scores)
}

/// Sequences that [`choice`] makes good use of for that many choices.
pub fn choice_sequences(choices: usize) -> u32 {
    (choices + 1).clamp(2, 16) as u32
}

/// Natural-logarithm softmax in f64.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum: f64 = logits.iter().map(|l| (*l as f64 - max).exp()).sum();
    let log_sum = max + sum.ln();
    logits.iter().map(|l| *l as f64 - log_sum).collect()
}

/// 95 % Wilson score interval of a proportion; `[0, 1]` without observations.
pub fn wilson(correct: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (z, n) = (1.959964f64, n as f64);
    let p = correct as f64 / n;
    let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

fn prediction(item: &Item, answer: &str) -> Prediction {
    let answer = answer.trim();
    Prediction {
        line: item.line,
        answer: answer.to_owned(),
        accepted: item.accepted.clone(),
        correct: item.accepted.iter().any(|text| text.trim() == answer),
    }
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

/// Prompt tokens and accepted texts of a row.
///
/// # Errors
/// Those of the chat template and the tokenizer.
pub fn item(
    row: &crate::data::Row,
    model: &Model,
    template: Option<&crate::chat::ChatTemplate>,
) -> Result<Item, Error> {
    let mut accepted = vec![row.completion.clone()];
    accepted.extend(
        row.references
            .iter()
            .filter(|r| **r != row.completion)
            .cloned(),
    );
    let prompt = model.tokenize(&row.prompt_text(template)?, true, true)?;
    Ok(Item {
        prompt,
        accepted,
        line: row.line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(accepted: &[&str]) -> Item {
        let accepted = accepted.iter().map(|s| s.to_string()).collect();
        Item {
            prompt: vec![1],
            accepted,
            line: 1,
        }
    }

    #[test]
    fn answers_match_without_surrounding_white_space() {
        assert!(prediction(&row(&[" billing"]), "billing ").correct);
        assert!(prediction(&row(&["a", "b"]), "b").correct);
        assert!(!prediction(&row(&["billing"]), "billing.").correct);
    }

    #[test]
    fn a_line_ends_after_its_text_only() {
        assert!(!first_line_ended(b"\n\n"));
        assert!(!first_line_ended(b"\n x"));
        assert!(first_line_ended(b"\n x\n"));
    }

    #[test]
    fn log_softmax_sums_to_one_and_survives_large_logits() {
        let p: f64 = log_softmax(&[1000.0, 999.0, -1e9])
            .iter()
            .map(|l| l.exp())
            .sum();
        assert!((p - 1.0).abs() < 1e-12);
    }

    #[test]
    fn wilson_agrees_with_known_values() {
        // 10 of 20: 0.299 … 0.701 (Wilson 1927)
        let [low, high] = wilson(10, 20);
        assert!((low - 0.29930).abs() < 1e-4 && (high - 0.70070).abs() < 1e-4);
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
        assert_eq!(wilson(5, 5)[1], 1.0);
    }
}
