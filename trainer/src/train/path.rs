//! What the stages of a run left, and which of it serves: the sparsest that is not worse than
//! the best.

use tch::{Kind, Tensor};

use super::state::State;
use super::unedited::Unedited;
use super::validation::{RowScores, StageResult};
use crate::method::Parameters;
use crate::Error;

/// The best of one stage.
#[derive(Debug)]
pub struct Candidate {
    /// What it measured; none without validation rows.
    pub result: Option<StageResult>,
    /// Row by row.
    pub(super) scores: RowScores,
    /// Its parameters, under their names in saved state.
    pub(super) values: Vec<(String, Tensor)>,
}

impl Candidate {
    /// Gives parameters of its run its values.
    pub fn restore(&self, parameters: &mut Parameters) {
        parameters.set_values(&self.values);
    }
}

/// The candidates of a run, from dense to sparse.
#[derive(Debug, Default)]
pub struct Candidates {
    list: Vec<Candidate>,
}

impl Candidates {
    /// Adds the best of the next stage.
    pub(super) fn push(&mut self, candidate: Candidate) {
        self.list.push(candidate);
    }

    /// From dense to sparse.
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    fn best(&self) -> usize {
        let better = |a: usize, b: usize| match (&self.list[a].result, &self.list[b].result) {
            (Some(one), Some(other)) => {
                let n_rows = self.list[a].scores.losses.len();
                one.validation.is_better(&other.validation, n_rows)
            }
            _ => true,
        };
        let stages = 1..self.list.len();
        stages.fold(0, |best, stage| match better(stage, best) {
            true => stage,
            false => best,
        })
    }

    /// The sparsest that is not worse than the best, and whose answers are chosen no worse than
    /// without an edit, if there is one of these.
    pub fn chosen(&self, unedited: Option<&Unedited>) -> usize {
        let best = &self.list[self.best()];
        let serves = |index: &usize| !self.list[*index].scores.worse_than(&best.scores, 1.0);
        let chooses = |index: &usize| match (&self.list[*index].result, unedited) {
            (Some(result), Some(unedited)) => result.choice >= unedited.result.choice,
            _ => true,
        };
        let all = || (0..self.list.len()).rev();
        let found = all().filter(chooses).find(serves);
        found.or_else(|| all().find(serves)).unwrap_or(0)
    }

    /// Whether the last stage is so much worse than the best that sparser ones need no trial.
    pub(super) fn lost(&self) -> bool {
        let best = &self.list[self.best()];
        let last = self.list.last();
        last.is_some_and(|last| last.scores.worse_than(&best.scores, 3.0))
    }

    /// Everything needed to continue exactly, beside the results.
    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for (index, candidate) in self.list.iter().enumerate() {
            let named = |name: &str| format!("stage.{index}.{name}");
            for (name, value) in &candidate.values {
                state.push((named(name), value.copy()));
            }
            for (name, tensor) in candidate.scores.tensors() {
                state.push((named(name), tensor));
            }
        }
        state
    }

    /// Puts a [`state`](Self::state) back, of parameters like `values`.
    ///
    /// # Errors
    /// [`Error::State`] when a tensor is missing or has another shape.
    pub(super) fn load_state(
        &mut self,
        state: &State,
        values: &[(String, Tensor)],
    ) -> Result<(), Error> {
        self.list.clear();
        for (index, result) in state.counters.stages.iter().enumerate() {
            let mut own = Vec::with_capacity(values.len());
            for (name, like) in values {
                let value = state.tensor(&format!("stage.{index}.{name}"), like)?;
                own.push((name.clone(), value.to_device(like.device())));
            }
            self.list.push(Candidate {
                result: *result,
                scores: RowScores::load(state, &format!("stage.{index}"))?,
                values: own,
            });
        }
        Ok(())
    }
}

impl RowScores {
    /// As tensors for saved state, under their names.
    pub(super) fn tensors(&self) -> [(&'static str, Tensor); 2] {
        let exact: Vec<f64> = self.exact.iter().map(|exact| f64::from(*exact)).collect();
        [
            ("losses", Tensor::from_slice(&self.losses)),
            ("exact", Tensor::from_slice(&exact)),
        ]
    }

    /// [`tensors`](Self::tensors) of a saved state, under names that begin with `prefix`.
    pub(super) fn load(state: &State, prefix: &str) -> Result<RowScores, Error> {
        let find = |name: &str| -> Result<Vec<f64>, Error> {
            let name = format!("{prefix}.{name}");
            let found = state.tensors.iter().find(|(own, _)| *own == name);
            let tensor = found.map(|(_, tensor)| tensor);
            match tensor.filter(|tensor| tensor.kind() == Kind::Double && tensor.dim() == 1) {
                Some(tensor) => Ok(Vec::try_from(tensor).expect("a list of numbers")),
                None => Err(Error::State {
                    what: format!("{name} is missing or no list of numbers"),
                }),
            }
        };
        let exact = find("exact")?;
        Ok(RowScores {
            losses: find("losses")?,
            exact: exact.into_iter().map(|exact| exact > 0.0).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Validation;

    fn candidate(losses: &[f64], exact: &[bool], choice: Option<f64>) -> Candidate {
        let n = losses.len() as f64;
        Candidate {
            result: Some(StageResult {
                validation: Validation {
                    loss: losses.iter().sum::<f64>() / n,
                    exact: exact.iter().filter(|exact| **exact).count() as f64 / n,
                },
                choice,
            }),
            scores: RowScores {
                losses: losses.to_vec(),
                exact: exact.to_vec(),
            },
            values: Vec::new(),
        }
    }

    #[test]
    fn the_sparsest_that_is_not_worse_is_chosen() {
        let mut candidates = Candidates::default();
        candidates.push(candidate(&[0.1, 0.5, 0.2, 0.9], &[true; 4], None));
        assert_eq!(candidates.chosen(None), 0);
        candidates.push(candidate(&[0.2, 0.4, 0.3, 0.8], &[true; 4], None));
        assert!(!candidates.lost());
        candidates.push(candidate(&[2.1, 2.5, 2.2, 2.9], &[false; 4], None));
        assert!(candidates.lost());
        assert_eq!(candidates.chosen(None), 1);
    }

    #[test]
    fn what_chooses_worse_than_the_unedited_model_comes_last() {
        let unedited = Unedited {
            result: StageResult {
                validation: Validation {
                    loss: 3.0,
                    exact: 0.0,
                },
                choice: Some(0.5),
            },
            guessing: None,
        };
        let mut candidates = Candidates::default();
        candidates.push(candidate(&[0.1, 0.5], &[true; 2], Some(0.75)));
        candidates.push(candidate(&[0.1, 0.5], &[true; 2], Some(0.25)));
        assert_eq!(candidates.chosen(None), 1);
        assert_eq!(candidates.chosen(Some(&unedited)), 0);
    }
}
