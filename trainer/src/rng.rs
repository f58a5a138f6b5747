//! Randomness that depends on nothing but the seed, the purpose and the step.
//!
//! Every draw is keyed, so a run that is cut off and continued at step `n` sees the
//! same noise and the same order of rows as one that ran through, and so does a run on
//! another device.

use rand_xoshiro::rand_core::{Rng as _, SeedableRng};
use rand_xoshiro::SplitMix64;

/// What a stream of random numbers is for: streams of one seed never overlap in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial values of the vectors.
    Init = 1,
    /// Order of the rows in an epoch.
    Shuffle = 2,
    /// Gate noise of a step.
    Gates = 3,
    /// Split of the data into training and validation rows.
    Split = 4,
    /// Initial values of low-rank factors.
    Lora = 5,
    /// Initial values of gates.
    InitGates = 6,
}

/// SplitMix64, started anew for each key.
#[derive(Clone, Debug)]
pub struct Rng(SplitMix64);

impl Rng {
    /// The stream of `seed` for one purpose and one index (a step or an epoch).
    pub fn new(seed: u64, purpose: Purpose, index: u64) -> Rng {
        let mut state = seed ^ 0x6a6f_6c61;
        for part in [purpose as u64, index] {
            let mixed = SplitMix64::seed_from_u64(state).next_u64();
            state = mixed ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        Rng(SplitMix64::seed_from_u64(state))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in the open interval (0, 1), with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        ((self.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = (self.next_u64() % (i as u64 + 1)) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_keyed_and_uniform() {
        let draw = |seed, purpose, index| Rng::new(seed, purpose, index).next_u64();
        assert_eq!(draw(1, Purpose::Gates, 5), draw(1, Purpose::Gates, 5));
        assert_ne!(draw(1, Purpose::Gates, 5), draw(1, Purpose::Gates, 6));
        assert_ne!(draw(1, Purpose::Gates, 5), draw(1, Purpose::Shuffle, 5));
        assert_ne!(draw(1, Purpose::Gates, 5), draw(2, Purpose::Gates, 5));
        let mut rng = Rng::new(3, Purpose::Init, 0);
        let n = 100_000;
        let mean = (0..n).map(|_| rng.uniform()).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01);
        let (mut sum, mut square) = (0.0, 0.0);
        for _ in 0..n {
            let x = rng.normal();
            sum += x;
            square += x * x;
        }
        assert!((sum / n as f64).abs() < 0.02 && (square / n as f64 - 1.0).abs() < 0.03);
    }

    /// Numbers that training has been reproduced with; others would give other files.
    #[test]
    fn streams_stay_what_they_are() {
        let mut rng = Rng::new(42, Purpose::Gates, 7);
        assert_eq!(
            [rng.next_u64(), rng.next_u64(), rng.next_u64()],
            [
                0xc089_8a3a_6fce_4546,
                0x863f_efbb_06e5_ab51,
                0x1ad1_d7ee_e35f_a3bb,
            ]
        );
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..97).collect();
        Rng::new(1, Purpose::Shuffle, 0).shuffle(&mut items);
        assert_ne!(items, (0..97).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..97).collect::<Vec<_>>());
    }
}
