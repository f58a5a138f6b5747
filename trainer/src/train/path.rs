//! What the stages of a run left, and which of it serves: the sparsest that is not worse than
//! the best.

use tch::{Kind, Tensor};

use super::state::State;
use super::unedited::Unedited;
use super::validation::{Done, RowScores, StageResult};
use crate::method::Parameters;
use crate::Error;

/// An edit that is worse than the best by no more standard errors nearly serves: with more of its
/// gates open it may.
const NEARLY: f64 = 3.0;

/// The best of one stage.
#[derive(Debug)]
pub struct Candidate {
    /// Which of the run's targets its gates were closed to.
    pub level: usize,
    /// What it measured; none without validation rows.
    pub result: Option<StageResult>,
    /// Row by row.
    pub(super) scores: RowScores,
    /// Its parameters, under their names in saved state.
    pub(super) values: Vec<(String, Tensor)>,
}

impl Candidate {
    /// Whether it does better than another of its run; without validation rows the later one is
    /// taken to.
    fn is_better(&self, other: &Candidate) -> bool {
        let n_rows = self.scores.losses.len();
        let results = self.result.zip(other.result);
        results.is_none_or(|(own, other)| own.validation.is_better(&other.validation, n_rows))
    }

    /// Whether it chooses answers no worse than the unedited model.
    fn chooses(&self, unedited: Option<&Unedited>) -> bool {
        let results = self.result.zip(unedited);
        results.is_none_or(|(own, unedited)| own.choice >= unedited.result.choice)
    }

    /// Gives parameters of its run its values.
    pub fn restore(&self, parameters: &mut Parameters) {
        parameters.set_values(&self.values);
    }
}

/// The candidates of a run, in the order of its stages.
#[derive(Debug, Default)]
pub struct Candidates {
    list: Vec<Candidate>,
}

impl Candidates {
    /// Adds the best of the next stage.
    pub(super) fn push(&mut self, candidate: Candidate) {
        self.list.push(candidate);
    }

    /// In the order of the stages.
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    fn best(&self) -> usize {
        let stages = 1..self.list.len();
        stages.fold(0, |best, stage| {
            match self.list[stage].is_better(&self.list[best]) {
                true => stage,
                false => best,
            }
        })
    }

    /// The sparsest that is not worse than the best, and whose answers are chosen no worse than
    /// without an edit, if there is one of these. Of two that are as sparse only the better one
    /// counts.
    pub fn chosen(&self, unedited: Option<&Unedited>) -> usize {
        let overtaken = |index: &usize| {
            let own = &self.list[*index];
            let others = self.list.iter().enumerate();
            others
                .filter(|(other, candidate)| other != index && candidate.level == own.level)
                .any(|(_, candidate)| candidate.is_better(own))
        };
        let mut all: Vec<usize> = (0..self.list.len()).collect();
        all.retain(|index| !overtaken(index));
        all.sort_by_key(|index| std::cmp::Reverse(self.list[*index].level));
        let serves = |index: &usize| !self.worse_than_best(*index, 1.0);
        let chooses = |index: &usize| self.list[*index].chooses(unedited);
        let found = all.iter().find(|index| serves(index) && chooses(index));
        let found = found.or_else(|| all.iter().find(|index| serves(index)));
        found.copied().unwrap_or(0)
    }

    /// Whether one is worse than the best by more than so many standard errors.
    fn worse_than_best(&self, index: usize, errors: f64) -> bool {
        let best = &self.list[self.best()];
        self.list[index].scores.worse_than(&best.scores, errors)
    }

    /// The level of the third stage: that of the second, if this serves; one between the first two,
    /// if it nearly does; else that of the first. An edit of a level that is there already gets the
    /// steps.
    pub(super) fn next_level(&self) -> usize {
        let second = 1;
        let level = self.list[second].level;
        if !self.worse_than_best(second, 1.0) {
            level
        } else if !self.worse_than_best(second, NEARLY) {
            level - 1
        } else {
            self.list[0].level
        }
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
        for (index, &Done { level, result }) in state.counters.stages.iter().enumerate() {
            let mut own = Vec::with_capacity(values.len());
            for (name, like) in values {
                let value = state.tensor(&format!("stage.{index}.{name}"), like)?;
                own.push((name.clone(), value.to_device(like.device())));
            }
            self.list.push(Candidate {
                level,
                result,
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

    fn candidate(level: usize, losses: &[f64], choice: Option<f64>) -> Candidate {
        let n = losses.len() as f64;
        Candidate {
            level,
            result: Some(StageResult {
                validation: Validation {
                    loss: losses.iter().sum::<f64>() / n,
                    exact: 1.0,
                },
                choice,
            }),
            scores: RowScores {
                losses: losses.to_vec(),
                exact: vec![true; losses.len()],
            },
            values: Vec::new(),
        }
    }

    fn candidates<const N: usize>(list: [Candidate; N]) -> Candidates {
        let mut candidates = Candidates::default();
        list.into_iter()
            .for_each(|candidate| candidates.push(candidate));
        candidates
    }

    const DENSE: [f64; 4] = [0.1, 0.5, 0.2, 0.9];
    const EVEN: [f64; 4] = [0.2, 0.4, 0.3, 0.8];
    const FURTHER: [f64; 4] = [0.1, 0.4, 0.1, 0.9];
    const WORSE: [f64; 4] = [0.5, 0.7, 0.4, 1.8];
    const LOST: [f64; 4] = [2.1, 2.5, 2.2, 2.9];

    #[test]
    fn the_sparsest_that_is_not_worse_is_chosen() {
        let dense = || candidate(0, &DENSE, None);
        let chosen = |candidates: Candidates| candidates.chosen(None);
        assert_eq!(chosen(candidates([dense()])), 0);
        let even = |level| candidate(level, &EVEN, None);
        let lost = |level| candidate(level, &LOST, None);
        let further = |level| candidate(level, &FURTHER, None);
        assert_eq!(chosen(candidates([dense(), even(2), lost(2)])), 1);
        assert_eq!(chosen(candidates([dense(), even(2), further(2)])), 2);
        // The third may lie between the two.
        assert_eq!(chosen(candidates([dense(), even(2), even(1)])), 1);
        assert_eq!(chosen(candidates([dense(), lost(2), even(1)])), 2);
        assert_eq!(chosen(candidates([dense(), lost(2), lost(1)])), 0);
        // The dense edit may have been trained on.
        assert_eq!(chosen(candidates([dense(), lost(2), further(0)])), 2);
        assert_eq!(chosen(candidates([further(0), lost(2), dense()])), 0);
    }

    #[test]
    fn the_third_stage_is_the_denser_the_worse_the_second_is() {
        for (losses, level) in [(EVEN, 2), (WORSE, 1), (LOST, 0)] {
            let [dense, second] = [candidate(0, &DENSE, None), candidate(2, &losses, None)];
            assert_eq!(candidates([dense, second]).next_level(), level);
        }
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
        let list = [(0, 0.75), (2, 0.25)];
        let candidates =
            candidates(list.map(|(level, choice)| candidate(level, &DENSE, Some(choice))));
        assert_eq!(candidates.chosen(None), 1);
        assert_eq!(candidates.chosen(Some(&unedited)), 0);
    }
}
