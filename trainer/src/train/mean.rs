//! The mean of where the cycles of a polish phase end.
//!
//! Rows are few and soon known by heart; from then on steps move the vectors about without making
//! them better, the farther the higher the rate. So the rate of a polish phase falls in several
//! cycles (Huang et al. 2017), and what is validated and kept is the mean of the parameters at
//! their ends, in which the chance of each is gone (Izmailov et al. 2018). The first ends of a phase
//! still have to learn: each one counts as much as all before it (`research/recipe.md`).

use tch::{no_grad, Tensor};

use super::state::State;
use crate::Error;

/// Before the names of its tensors in a saved state.
const NAME: &str = "mean.";

/// Of parameters, under their names; empty at first.
#[derive(Debug, Default)]
pub(super) struct Mean {
    values: Vec<(String, Tensor)>,
}

impl Mean {
    /// Of one end.
    pub fn of(values: &[(String, Tensor)]) -> Mean {
        let copy = |(name, value): &(String, Tensor)| (name.clone(), value.copy());
        Mean {
            values: values.iter().map(copy).collect(),
        }
    }

    /// Adds one more, which counts as much as all before it.
    pub fn add(&mut self, values: Vec<(String, Tensor)>) {
        if self.is_empty() {
            self.values = values;
            return;
        }
        let pairs = self.values.iter_mut().zip(values);
        no_grad(|| {
            for ((_, mean), (_, value)) in pairs {
                *mean += (value - &*mean) / 2.0;
            }
        });
    }

    /// Whether it is of none yet.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Under their names.
    pub fn values(&self) -> &[(String, Tensor)] {
        &self.values
    }

    /// As tensors for saved state.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        let named = |(name, value): &(String, Tensor)| (format!("{NAME}{name}"), value.copy());
        self.values.iter().map(named)
    }

    /// A saved [`state`](Self::state), of parameters like `values`; empty where there is none.
    ///
    /// # Errors
    /// [`Error::State`] when a tensor is missing or has another shape.
    pub fn load(state: &State, values: &[(String, Tensor)]) -> Result<Mean, Error> {
        let mut saved = state.tensors.iter();
        if !saved.any(|(name, _)| name.starts_with(NAME)) {
            return Ok(Mean::default());
        }
        let values = values.iter().map(|(name, like)| {
            let value = state.tensor(&format!("{NAME}{name}"), like)?;
            Ok((name.clone(), value.copy().to_device(like.device())))
        });
        Ok(Mean {
            values: values.collect::<Result<_, Error>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_counts_as_much_as_all_before_it() {
        let values = |numbers: [f64; 2]| vec![("v".to_owned(), Tensor::from_slice(&numbers))];
        let of = |mean: &Mean| Vec::<f64>::try_from(&mean.values()[0].1).unwrap();
        let mut mean = Mean::default();
        assert!(mean.is_empty());
        mean.add(values([1.0, 4.0]));
        assert_eq!(of(&mean), [1.0, 4.0]);
        mean.add(values([2.0, 8.0]));
        mean.add(values([6.5, 0.0]));
        assert_eq!(of(&mean), [4.0, 3.0]);
        let mut further = Mean::of(mean.values());
        further.add(values([0.0, 0.0]));
        assert_eq!(of(&further), [2.0, 1.5]);
        assert_eq!(of(&mean), [4.0, 3.0]);
    }
}
