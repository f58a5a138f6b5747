//! From data files to token sequences: encoding, leaving out what is too long, the split
//! into training and validation rows, and the order of rows.

use std::path::Path;

use llama_jola::chat::Prompt;
use llama_jola::data::{self, Row};
use llama_jola::Vocabulary;

use crate::batch::Sequence;
use crate::rng::{Purpose, Rng};
use crate::Error;

/// Rows of a file as sequences.
#[derive(Debug)]
pub struct Encoded {
    /// The rows that fit.
    pub sequences: Vec<Sequence>,
    /// Lines of the file whose rows are longer than the limit: left out, never cut.
    pub too_long: Vec<usize>,
}

/// Reads and tokenises a data file.
///
/// `chat` sends plain prompts through the chat template as one user message. Rows of more
/// than `max_length` tokens are left out.
///
/// # Errors
/// Those of the data, the template and the tokenizer; [`Error::NoRows`] when nothing fits.
pub fn encode_file(
    path: &Path,
    limit: Option<usize>,
    chat: bool,
    max_length: usize,
    vocabulary: &dyn Vocabulary,
) -> Result<Encoded, Error> {
    let mut rows = data::read_rows(path, limit)?;
    if chat {
        rows = rows.into_iter().map(Row::into_chat).collect();
    }
    let template = match rows.iter().any(|row| matches!(row.prompt, Prompt::Chat(_))) {
        true => Some(vocabulary.chat()?),
        false => None,
    };
    let mut encoded = Encoded {
        sequences: Vec::with_capacity(rows.len()),
        too_long: Vec::new(),
    };
    for row in &rows {
        let example = data::encode(row, vocabulary, template.as_ref())?;
        if example.tokens.len() > max_length {
            encoded.too_long.push(row.line);
            continue;
        }
        encoded.sequences.push(Sequence {
            tokens: example
                .tokens
                .iter()
                .map(|&token| i64::from(token))
                .collect(),
            n_prompt: example.n_prompt,
        });
    }
    if encoded.sequences.is_empty() {
        return Err(Error::NoRows {
            path: path.to_path_buf(),
            max_length,
        });
    }
    Ok(encoded)
}

/// Takes the share `share` of the sequences, chosen by the seed, for validation.
/// At least one is left for training.
pub fn split(sequences: Vec<Sequence>, share: f64, seed: u64) -> (Vec<Sequence>, Vec<Sequence>) {
    let wanted = (sequences.len() as f64 * share).round() as usize;
    let n_valid = wanted.min(sequences.len() - 1);
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    Rng::new(seed, Purpose::Split, 0).shuffle(&mut order);
    let mut chosen = vec![false; sequences.len()];
    for &index in &order[..n_valid] {
        chosen[index] = true;
    }
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for (sequence, chosen) in sequences.into_iter().zip(chosen) {
        if chosen { &mut valid } else { &mut train }.push(sequence);
    }
    (train, valid)
}

/// Which rows each step trains on: every epoch visits every row once in a new order.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Rows in all.
    pub n_rows: usize,
    /// Rows of a step; the last step of an epoch takes what is left.
    pub batch_size: usize,
    /// Seed of the run.
    pub seed: u64,
}

impl Sampler {
    /// Steps of one epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.n_rows.div_ceil(self.batch_size)
    }

    /// The rows of step `step` (from 0); depends on nothing else.
    pub fn rows(&self, step: usize) -> Vec<usize> {
        let (epoch, part) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let mut order: Vec<usize> = (0..self.n_rows).collect();
        Rng::new(self.seed, Purpose::Shuffle, epoch as u64).shuffle(&mut order);
        order
            .chunks(self.batch_size)
            .nth(part)
            .expect("a part of the epoch")
            .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_row_once_in_a_new_order() {
        let sampler = Sampler {
            n_rows: 10,
            batch_size: 4,
            seed: 1,
        };
        assert_eq!(sampler.steps_per_epoch(), 3);
        let epoch = |n: usize| -> Vec<usize> {
            (3 * n..3 * n + 3)
                .flat_map(|step| sampler.rows(step))
                .collect()
        };
        assert_eq!(sampler.rows(2).len(), 2);
        assert_ne!(epoch(0), epoch(1));
        for n in 0..3 {
            let mut rows = epoch(n);
            rows.sort_unstable();
            assert_eq!(rows, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn split_is_seeded_and_leaves_a_row_to_train_on() {
        let rows = |n: i64| -> Vec<Sequence> {
            (0..n)
                .map(|i| Sequence {
                    tokens: vec![i, i],
                    n_prompt: 1,
                })
                .collect()
        };
        let (train, valid) = split(rows(10), 0.2, 5);
        assert_eq!((train.len(), valid.len()), (8, 2));
        assert_eq!(split(rows(10), 0.2, 5).1, valid);
        assert!(valid.iter().all(|row| !train.contains(row)));
        assert_eq!(split(rows(2), 0.99, 5).0.len(), 1);
        assert!(split(rows(3), 0.0, 5).1.is_empty());
    }
}
