//! What the unedited model says at places of the prompts.
//!
//! An edit is to leave it alone there. It is measured once before a run, on a few places of each
//! row, and depends on nothing but the rows, so that a resumed run measures the same.

use tch::{no_grad, Tensor};

use crate::model::{passes, Batch, Model, Sequence};

/// Places of each row that a step compares, at most.
const AT_ONCE: usize = 4;
/// Groups of so many places that take turns.
const TURNS: usize = 4;
/// Places of all rows, at most, as long as each has one: their streams are kept.
const MOST: usize = 1 << 14;

/// The unedited model at places of the prompts of training rows.
#[derive(Debug)]
pub struct PromptReference {
    /// Of each row the groups of places that take turns.
    rows: Vec<Vec<Group>>,
}

/// Places of a row that are compared in one step.
#[derive(Debug)]
struct Group {
    places: Vec<usize>,
    /// [places, d] the residual stream behind the last layer
    stream: Tensor,
}

impl PromptReference {
    /// Measures it on all rows.
    pub fn measure(model: &Model, sequences: &[Sequence]) -> PromptReference {
        let start = first_place(sequences);
        let groups: Vec<Vec<Vec<usize>>> = sequences
            .iter()
            .map(|row| turns(start..row.n_unselected(), most_places(sequences.len())))
            .collect();
        let mut rows = Vec::with_capacity(sequences.len());
        for pass in passes(sequences) {
            let members: Vec<&Sequence> = sequences[pass.clone()].iter().collect();
            let places: Vec<Vec<usize>> = groups[pass.clone()]
                .iter()
                .map(|own| own.concat())
                .collect();
            let places: Vec<&[usize]> = places.iter().map(Vec::as_slice).collect();
            let batch = Batch::pack_with(&members, &places, model.device());
            let x = no_grad(|| model.enter(&batch, model.layers.len())); // [R, d]
            let mut at = batch.targets.size()[0];
            for own in &groups[pass] {
                let group = |places: &Vec<usize>| {
                    let count = places.len() as i64;
                    let stream = x.narrow(0, at, count).copy();
                    at += count;
                    Group {
                        places: places.clone(),
                        stream,
                    }
                };
                rows.push(own.iter().map(group).collect());
            }
        }
        PromptReference { rows }
    }

    /// The places of these rows whose turn it is, and the residual stream [K, d] to compare them
    /// with; none where no row has any.
    pub(super) fn of(&self, rows: &[usize], turn: usize) -> Option<(Vec<&[usize]>, Tensor)> {
        let groups: Vec<Option<&Group>> = rows
            .iter()
            .map(|&row| self.rows[row].get(turn % self.rows[row].len().max(1)))
            .collect();
        let streams: Vec<&Tensor> = groups.iter().flatten().map(|group| &group.stream).collect();
        if streams.is_empty() {
            return None;
        }
        let places = groups
            .iter()
            .map(|group| group.map_or(&[][..], |group| &group.places[..]));
        Some((places.collect(), Tensor::cat(&streams, 0)))
    }

    /// Places that a step of so many rows compares, and those that are kept of all `n_rows` rows;
    /// at most.
    pub fn most(batch_size: usize, n_rows: usize) -> [usize; 2] {
        [batch_size * AT_ONCE, n_rows * most_places(n_rows)]
    }
}

/// Places of each of so many rows, at most.
fn most_places(n_rows: usize) -> usize {
    (MOST / n_rows.max(1)).clamp(1, AT_ONCE * TURNS)
}

/// Where the places of all rows begin: behind what all prompts begin with, since a template says
/// little that is to be kept. Of prompts that are all the same, and of a single one, all is.
fn first_place(sequences: &[Sequence]) -> usize {
    let [first, others @ ..] = sequences else {
        return 0;
    };
    let common = others.iter().map(|other| first.begins_like(other)).min();
    let differs = |common: &usize| sequences.iter().any(|row| row.n_unselected() > *common);
    common.filter(differs).unwrap_or(0)
}

/// At most so many places of a range, evenly spread, in groups that are spread alike.
fn turns(range: std::ops::Range<usize>, most: usize) -> Vec<Vec<usize>> {
    let count = range.len().min(most);
    let n_groups = count.div_ceil(AT_ONCE);
    let mut groups = vec![Vec::new(); n_groups];
    for index in 0..count {
        groups[index % n_groups].push(range.start + index * range.len() / count);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread_over_the_prompt_and_take_turns() {
        assert_eq!(turns(5..5, 16), Vec::<Vec<usize>>::new());
        assert_eq!(turns(5..8, 16), [[5, 6, 7]]);
        assert_eq!(turns(0..6, 16), [[0, 2, 4], [1, 3, 5]]);
        assert_eq!(turns(10..110, 5), [vec![10, 50, 90], vec![30, 70]]);
        let many = turns(0..1000, 16);
        assert_eq!(many.len(), TURNS);
        assert!(many.iter().all(|group| group.len() == AT_ONCE));
        assert_eq!([many[0][1], many[1][0]], [250, 62]);
    }

    #[test]
    fn what_all_rows_begin_with_is_left_out() {
        let row = |tokens: &[i64]| Sequence::new(tokens.to_vec(), 4);
        let rows = [
            row(&[1, 2, 3, 4, 9]),
            row(&[1, 2, 5, 4, 9]),
            row(&[1, 2, 3, 7, 9]),
        ];
        assert_eq!(first_place(&rows), 2);
        assert_eq!(first_place(&rows[..1]), 0);
        assert_eq!(first_place(&[]), 0);
    }

    #[test]
    fn prompts_that_are_all_the_same_are_compared_as_a_whole() {
        let row = |answer| Sequence::new(vec![1, 2, 3, 4, answer], 4);
        assert_eq!(first_place(&[row(8), row(9)]), 0);
        assert_eq!(first_place(&[row(9), row(9)]), 0);
    }

    #[test]
    fn many_rows_have_fewer_places_each() {
        assert_eq!(PromptReference::most(4, 200), [16, 3200]);
        assert_eq!(PromptReference::most(4, 4096), [16, MOST]);
        assert_eq!(PromptReference::most(8, 100_000), [32, 100_000]);
    }
}
