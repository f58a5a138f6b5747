//! The split of the rows into those to train on and those to validate with.

use std::collections::HashMap;

use crate::model::Sequence;
use crate::rng::{Purpose, Rng};

/// Takes the share `share` of the rows, chosen by the seed, for validation. At least one is
/// left for training. Rows that are the same stay together: one that was trained on would
/// tell nothing about a twin held out.
pub fn split(rows: Vec<Vec<Sequence>>, share: f64, seed: u64) -> (Vec<Sequence>, Vec<Sequence>) {
    let wanted = (rows.len() as f64 * share).round() as usize;
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of: HashMap<&[Sequence], usize> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let group = *group_of.entry(row).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(index);
    }
    let mut order: Vec<usize> = (0..groups.len()).collect();
    Rng::new(seed, Purpose::Split, 0).shuffle(&mut order);
    let mut chosen = vec![false; rows.len()];
    let mut n_chosen = 0;
    for group in order
        .iter()
        .take(groups.len() - 1)
        .map(|group| &groups[*group])
    {
        if n_chosen >= wanted {
            break;
        }
        n_chosen += group.len();
        group.iter().for_each(|index| chosen[*index] = true);
    }
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for (row, chosen) in rows.into_iter().zip(chosen) {
        if chosen { &mut valid } else { &mut train }.extend(row);
    }
    (train, valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(numbers: impl IntoIterator<Item = i64>) -> Vec<Vec<Sequence>> {
        let row = |i| vec![Sequence::new(vec![i, i], 1)];
        numbers.into_iter().map(row).collect()
    }

    #[test]
    fn split_is_seeded_and_leaves_a_row_to_train_on() {
        let (train, valid) = split(rows(0..10), 0.2, 5);
        assert_eq!((train.len(), valid.len()), (8, 2));
        assert_eq!(split(rows(0..10), 0.2, 5).1, valid);
        assert!(valid.iter().all(|row| !train.contains(row)));
        assert_eq!(split(rows(0..2), 0.99, 5).0.len(), 1);
        assert!(split(rows(0..3), 0.0, 5).1.is_empty());
    }

    #[test]
    fn rows_that_are_the_same_are_on_one_side() {
        for seed in 0..20 {
            let (train, valid) = split(rows((0..30).map(|i| i % 7)), 0.3, seed);
            assert!(valid.iter().all(|row| !train.contains(row)), "seed {seed}");
            assert_eq!(train.len() + valid.len(), 30);
            assert!(valid.len() >= 9 && !train.is_empty());
        }
        assert!(split(rows([1, 1, 1]), 0.5, 1).1.is_empty());
    }
}
