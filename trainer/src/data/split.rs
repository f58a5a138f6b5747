//! The split of the rows into those to train on and those to validate with.

use crate::model::Sequence;
use crate::rng::{Purpose, Rng};

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

#[cfg(test)]
mod tests {
    use super::*;

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
