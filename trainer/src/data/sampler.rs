//! The order of the rows.

use crate::rng::{Purpose, Rng};

/// Which rows each step trains on: every epoch visits every row once in a new order.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// How many rows there are.
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
        self.order(epoch)
            .chunks(self.batch_size)
            .nth(part)
            .expect("a part of the epoch")
            .to_vec()
    }

    /// The rows of each of the first `steps` steps, with one shuffle an epoch.
    pub fn first(self, steps: usize) -> impl Iterator<Item = Vec<usize>> {
        let epochs = 0..steps.div_ceil(self.steps_per_epoch());
        let of_epoch = move |epoch| {
            let order = self.order(epoch);
            let parts = order.chunks(self.batch_size).map(<[usize]>::to_vec);
            parts.collect::<Vec<_>>()
        };
        epochs.flat_map(of_epoch).take(steps)
    }

    /// All rows in the order of an epoch.
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.n_rows).collect();
        Rng::new(self.seed, Purpose::Shuffle, epoch as u64).shuffle(&mut order);
        order
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
        for steps in [0, 2, 3, 8] {
            let first: Vec<Vec<usize>> = sampler.first(steps).collect();
            let each: Vec<Vec<usize>> = (0..steps).map(|step| sampler.rows(step)).collect();
            assert_eq!(first, each);
        }
        assert_ne!(epoch(0), epoch(1));
        for n in 0..3 {
            let mut rows = epoch(n);
            rows.sort_unstable();
            assert_eq!(rows, (0..10).collect::<Vec<_>>());
        }
    }
}
