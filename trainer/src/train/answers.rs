//! The answers that the rows choose between, where they are few: how often the likeliest of
//! them is right, and what it is worth to guess by their frequencies.
//!
//! A base model that does not know how an answer is worded has a high loss and no exact row,
//! though it may rank the answers well. A training that spoils it shows here alone.

use std::collections::BTreeMap;

use tch::{no_grad, Kind};

use crate::data::CachedRows;
use crate::model::{Batch, LayerChange, Model, Sequence};

/// More answers than this are no closed set, and would take long to compare.
const MOST: usize = 8;
/// How often each must come up, on average, to be one of a closed set.
const OFTEN: usize = 3;

/// A closed set of answers, and how often each of them is the right one.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// The tokens of each.
    texts: Vec<Vec<i64>>,
    counts: Vec<usize>,
}

impl Answers {
    /// Those of training rows; `None` where they are no closed set of two and more.
    pub fn of(rows: &[Sequence]) -> Option<Answers> {
        let mut counts: BTreeMap<&[i64], usize> = BTreeMap::new();
        for row in rows {
            *counts.entry(answer(row)?).or_default() += 1;
            if counts.len() > MOST {
                return None;
            }
        }
        let enough = rows.len() >= counts.len() * OFTEN;
        (counts.len() >= 2 && enough).then(|| Answers {
            texts: counts.keys().map(|text| text.to_vec()).collect(),
            counts: counts.into_values().collect(),
        })
    }

    /// The loss of a row, mean over `rows`, of someone who knows nothing but how often each
    /// answer is right: in nats, comparable with a row's summed cross-entropy. `None` where a
    /// row has another answer.
    pub fn guessing(&self, rows: &[Sequence]) -> Option<f64> {
        let all: usize = self.counts.iter().sum();
        let of_row = |row| {
            let place = self.place(answer(row)?)?;
            Some(-(self.counts[place] as f64 / all as f64).ln())
        };
        let losses: Option<Vec<f64>> = rows.iter().map(of_row).collect();
        let losses = losses?;
        Some(losses.iter().sum::<f64>() / losses.len() as f64)
    }

    fn place(&self, text: &[i64]) -> Option<usize> {
        self.texts.iter().position(|own| own == text)
    }

    /// The share of `rows` whose own answer is the likeliest of all; `None` where a row has
    /// another answer.
    pub fn choice(&self, model: &Model, changes: &[LayerChange], rows: &CachedRows) -> Option<f64> {
        let mut right = 0;
        for row in rows.sequences() {
            let place = self.place(answer(row)?)?;
            let prompt = &row.tokens[..row.n_prompt()];
            let with = |text: &Vec<i64>| Sequence::new([prompt, text].concat(), prompt.len());
            let alternatives: Vec<Sequence> = self.texts.iter().map(with).collect();
            let batch = Batch::pack(&alternatives, model.device());
            let likelihoods = no_grad(|| {
                let logits = model.forward(&batch, changes).log_softmax(-1, Kind::Double);
                let own = logits.gather(-1, &batch.targets.unsqueeze(-1), false);
                Vec::<f64>::try_from(own.flatten(0, -1)).expect("one number per target")
            });
            let mut start = 0;
            let sums: Vec<f64> = alternatives
                .iter()
                .map(|row| {
                    let own = &likelihoods[start..start + row.n_targets()];
                    start += own.len();
                    own.iter().sum()
                })
                .collect();
            let best = (0..sums.len()).max_by(|a, b| sums[*a].total_cmp(&sums[*b]));
            right += usize::from(best == Some(place));
        }
        Some(right as f64 / rows.sequences().len() as f64)
    }
}

/// The answer of a row that has one, at its end; `None` of a longer conversation.
fn answer(row: &Sequence) -> Option<&[i64]> {
    match &row.targets[..] {
        [target] if target.end == row.tokens.len() && target.start > 0 => {
            Some(&row.tokens[target.clone()])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(answers: &[i64]) -> Vec<Sequence> {
        let row = |answer: &i64| Sequence::new(vec![1, 2, *answer, 0], 2);
        answers.iter().map(row).collect()
    }

    #[test]
    fn few_answers_that_come_again_are_a_closed_set() {
        let answers = Answers::of(&rows(&[7, 8, 7, 7, 8, 7])).unwrap();
        assert_eq!(answers.texts, [[7, 0], [8, 0]]);
        assert_eq!(answers.counts, [4, 2]);
        let loss = answers.guessing(&rows(&[7, 8])).unwrap();
        let expected = -((2.0f64 / 3.0).ln() + (1.0f64 / 3.0).ln()) / 2.0;
        assert!((loss - expected).abs() < 1e-12);
        assert_eq!(answers.guessing(&rows(&[7, 9])), None);
    }

    #[test]
    fn free_text_conversations_and_a_single_class_are_none() {
        assert_eq!(Answers::of(&rows(&[1, 2, 3, 4])), None);
        assert_eq!(Answers::of(&rows(&[5; 20])), None);
        let mut conversation = rows(&[7, 8, 7, 8, 7, 8]);
        conversation[0].targets.push(3..4);
        assert_eq!(Answers::of(&conversation), None);
        let many: Vec<i64> = (0..90).map(|i| i % 9).collect();
        assert_eq!(Answers::of(&rows(&many)), None);
    }
}
