//! The answers that the rows choose between, where they are few: how often the likeliest of
//! them is right, and what it is worth to guess by their frequencies.
//!
//! A base model that does not know how an answer is worded has a high loss and no exact row,
//! though it may rank the answers well. A training that spoils it shows here alone.

use std::collections::BTreeMap;

use super::validation::{target_scores, RowScores};
use crate::data::CachedRows;
use crate::model::{bunch_passes, Batch, LayerChange, Model, Sequence};
use crate::readings;

/// More answers than this are no closed set, and would take long to compare.
const MOST: usize = 8;
/// How often each must come up, on average, to be one of a closed set.
const OFTEN: usize = 3;

/// Below ln 2 an answer is likelier than all others together. The rest is room for what bfloat16
/// makes of the same row in another batch.
const SURE: f64 = 0.6;

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

    /// Whether all of two rows and more have the same answer, so that nothing is learned but to
    /// give it.
    pub fn all_alike(rows: &[Sequence]) -> bool {
        let first = rows.first().and_then(answer);
        rows.len() > 1 && first.is_some() && rows.iter().all(|row| answer(row) == first)
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

    /// Whether an answer with this summed cross-entropy leaves too little probability for any
    /// other. One that goes on where another ends leaves that one more.
    fn is_sure(&self, place: usize, loss: f64) -> bool {
        let own = &self.texts[place];
        let begins_it = |other: &Vec<i64>| other.len() < own.len() && own.starts_with(other);
        loss < SURE && !self.texts.iter().any(begins_it)
    }

    /// Of each of `rows`, whether its own answer is the likeliest of all; `None` where a row has
    /// another answer. `scores` are those of the rows under the same changes: where a row's own
    /// answer is sure, the others are not computed.
    pub fn choice(
        &self,
        model: &Model,
        changes: &[LayerChange],
        rows: &CachedRows,
        scores: &RowScores,
    ) -> Option<Vec<bool>> {
        let sequences = rows.sequences();
        debug_assert_eq!(sequences.len(), scores.losses.len());
        let (mut unsure, mut alternatives) = (Vec::new(), Vec::new());
        for (index, (row, loss)) in sequences.iter().zip(&scores.losses).enumerate() {
            let place = self.place(answer(row)?)?;
            if self.is_sure(place, *loss) {
                continue;
            }
            unsure.push((index, place));
            let prompt = &row.tokens[..row.n_prompt()];
            let with = |text: &Vec<i64>| Sequence::new([prompt, text].concat(), prompt.len());
            alternatives.extend(self.texts.iter().map(with));
        }
        // The answers to one prompt share it.
        let bunches: Vec<&[Sequence]> = alternatives.chunks(self.texts.len()).collect();
        let mut sums: Vec<f64> = Vec::with_capacity(alternatives.len());
        for pass in bunch_passes(&bunches) {
            let bunches = bunches[pass].iter().copied();
            let batch = Batch::pack_bunches(bunches.clone(), model.device());
            let losses = readings::numbers(&target_scores(model, &batch, changes).0);
            let mut losses = losses.into_iter();
            let sum = |row: &Sequence| losses.by_ref().take(row.n_targets()).sum::<f64>();
            sums.extend(bunches.flatten().map(sum));
        }
        let mut right = vec![true; sequences.len()];
        for ((index, place), sums) in unsure.into_iter().zip(sums.chunks(self.texts.len())) {
            let best = (0..sums.len()).min_by(|a, b| sums[*a].total_cmp(&sums[*b]));
            right[index] = best == Some(place);
        }
        Some(right)
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
    fn an_answer_is_sure_where_no_other_can_be_likelier() {
        let answers = Answers::of(&rows(&[7, 8, 7, 7, 8, 7])).unwrap();
        assert!(answers.is_sure(0, 0.59) && !answers.is_sure(0, 0.7));
        let mut longer = answers;
        longer.texts = vec![vec![7], vec![7, 8], vec![9]];
        assert!(longer.is_sure(0, 0.1) && longer.is_sure(2, 0.1));
        assert!(!longer.is_sure(1, 0.1), "7 is likelier than 7, 8");
    }

    #[test]
    fn free_text_conversations_and_a_single_class_are_none() {
        assert_eq!(Answers::of(&rows(&[1, 2, 3, 4])), None);
        assert_eq!(Answers::of(&rows(&[5; 20])), None);
        assert!(Answers::all_alike(&rows(&[5; 20])));
        assert!(!Answers::all_alike(&rows(&[5])) && !Answers::all_alike(&rows(&[5, 6])));
        let mut conversation = rows(&[7, 8, 7, 8, 7, 8]);
        conversation[0].targets.push(3..4);
        assert_eq!(Answers::of(&conversation), None);
        let many: Vec<i64> = (0..90).map(|i| i % 9).collect();
        assert_eq!(Answers::of(&rows(&many)), None);
    }
}
