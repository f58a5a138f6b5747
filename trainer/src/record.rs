//! What happened in each optimiser step, and what watches it.
//!
//! Numbers of a step stay on the device until several steps are read together: each look
//! waits for the device.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::schedule::Phase;
use crate::state::State;
use crate::Error;

/// A gate: layer and head.
pub type Gate = (usize, usize);

/// What one optimiser step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step, from 1.
    pub step: usize,
    /// Its phase.
    pub phase: Phase,
    /// Mean cross-entropy per response token of its rows, before the step.
    pub loss: f64,
    /// Learning rate of the vectors.
    pub lr: f64,
    /// Learning rate of the gates; 0 where they rest.
    pub gate_lr: f64,
    /// λ of the penalty, mean over the kinds of gates; 0 outside the prune phase.
    pub lambda: f64,
    /// Gates of each kind that are open after the step, by their deterministic value.
    pub open: BTreeMap<String, usize>,
    /// Gates of each kind that the step opened.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub opened: BTreeMap<String, Vec<Gate>>,
    /// Gates of each kind that the step closed; in the first step all that are closed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<String, Vec<Gate>>,
    /// Tokens that the model worked on.
    pub tokens: usize,
    /// Tokens per second of the steps read together with this one.
    pub tokens_per_second: f64,
}

impl StepRecord {
    /// Open gates of all kinds.
    pub fn n_open(&self) -> usize {
        self.open.values().sum()
    }
}

/// Loss and accuracy on held-out rows, with deterministic gates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Mean cross-entropy per response token.
    pub loss: f64,
    /// Share of rows whose every response token is the most likely one: what greedy
    /// decoding would get exactly right.
    pub exact: f64,
}

impl Validation {
    /// Shares of exact rows below this are luck, as with free text.
    const FEW: f64 = 0.05;
    /// One row more or less is luck too.
    const TELLING_ROWS: f64 = 2.0;

    /// Whether it is better than `other` on the same `n_rows` rows: by the rows that are exact,
    /// where they are more than a few and two or more tell the two apart, else by the loss.
    /// With so few training rows the loss grows early, of tokens that the model gets wrong with
    /// confidence, while it still learns to get more rows right (`research/runs/2026-11-26-models`).
    ///
    /// This is no order of all validations: the best of a run may give up a row at a time, each
    /// for a lower loss.
    pub fn is_better(&self, other: &Validation, n_rows: usize) -> bool {
        let rank = |v: &Validation| if v.exact < Self::FEW { 0.0 } else { v.exact };
        let gained = ((rank(self) - rank(other)) * n_rows as f64).round();
        if gained.abs() >= Self::TELLING_ROWS {
            gained > 0.0
        } else {
            self.loss < other.loss
        }
    }
}

/// A validation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Steps done before it.
    pub step: usize,
    /// Its result.
    pub validation: Validation,
    /// Whether it is the best so far.
    pub best: bool,
}

/// Watches a run.
pub trait Observer {
    /// Whether the records of the last steps are wanted now; asked after every step.
    fn due(&mut self) -> bool {
        false
    }
    /// Records of the last steps, in order; every step comes once.
    fn steps(&mut self, _records: &[StepRecord]) {}
    /// A validation.
    fn validated(&mut self, _record: &ValidationRecord) {}
    /// A line for the log.
    fn log(&mut self, _line: &str) {}
    /// Whether [`checkpoint`](Self::checkpoint) is wanted now; asked after every step.
    fn checkpoint_due(&mut self) -> bool {
        false
    }
    /// Where the run stood after the steps that records have come for; the loss that its
    /// parameters lead to is finite.
    fn checkpoint(&mut self, _state: &State) {}
}

/// The gates of a run as the records tell of them.
#[derive(Debug)]
pub(crate) struct GateHistory {
    /// Layers and heads of each kind of gate that is open.
    open: Vec<(&'static str, Vec<bool>)>,
    n_head: usize,
}

impl GateHistory {
    /// Before the first step, when all count as open; of gates of these kinds, [L, H].
    pub fn start(masks: &[(&'static str, Tensor)]) -> GateHistory {
        let mut history = GateHistory::now(masks);
        for (_, open) in &mut history.open {
            open.fill(true);
        }
        history
    }

    /// Of gates whose kinds stand open like this, [L, H] booleans (reads from the device).
    pub fn now(masks: &[(&'static str, Tensor)]) -> GateHistory {
        let n_head = masks.first().map_or(1, |(_, mask)| mask.size()[1] as usize);
        let open = masks.iter().map(|(name, mask)| (*name, bools(mask)));
        GateHistory {
            open: open.collect(),
            n_head,
        }
    }
}

/// Steps whose numbers have not been read.
#[derive(Debug, Default)]
pub(crate) struct Window {
    steps: Vec<Pending>,
    time: Duration,
}

/// A step whose numbers are still on the device.
#[derive(Debug)]
pub(crate) struct Pending {
    pub step: usize,
    pub phase: Phase,
    pub lr: f64,
    pub gate_lr: f64,
    pub tokens: usize,
    pub loss: Tensor,
    /// λ; `None`: no penalty.
    pub lambda: Option<Tensor>,
    /// Open gates of each kind, [L, H] booleans.
    pub open: Vec<Tensor>,
}

impl Window {
    pub fn push(&mut self, step: Pending) {
        self.steps.push(step);
    }

    /// The gates as the last step left them.
    pub fn note_gates(&mut self, masks: Vec<(&'static str, Tensor)>) {
        if let Some(step) = self.steps.last_mut() {
            step.open = masks.into_iter().map(|(_, open)| open).collect();
        }
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Time that the steps took.
    pub fn add_time(&mut self, time: Duration) {
        self.time += time;
    }

    /// Reads the numbers of all steps since the last call.
    ///
    /// # Errors
    /// [`Error::Diverged`] with the first step whose loss is not finite.
    pub fn read(&mut self, gates: &mut GateHistory) -> Result<(Vec<StepRecord>, Duration), Error> {
        if self.steps.is_empty() {
            return Ok((Vec::new(), Duration::ZERO));
        }
        let begun = std::time::Instant::now();
        let losses = numbers(self.steps.iter().map(|step| &step.loss));
        let lambdas = numbers(self.steps.iter().filter_map(|step| step.lambda.as_ref()));
        let time = std::mem::take(&mut self.time) + begun.elapsed();
        let tokens: usize = self.steps.iter().map(|step| step.tokens).sum();
        let tokens_per_second = tokens as f64 / time.as_secs_f64().max(1e-9);
        let mut lambdas = lambdas.into_iter();
        let mut records = Vec::with_capacity(self.steps.len());
        for (pending, loss) in self.steps.drain(..).zip(losses) {
            let step = pending.step + 1;
            if !loss.is_finite() {
                return Err(Error::Diverged { step, loss });
            }
            let mut record = StepRecord {
                step,
                phase: pending.phase,
                loss,
                lr: pending.lr,
                gate_lr: pending.gate_lr,
                // No minus zero, which the clamp at zero lets through.
                lambda: pending.lambda.and_then(|_| lambdas.next()).unwrap_or(0.0) + 0.0,
                open: BTreeMap::new(),
                opened: BTreeMap::new(),
                closed: BTreeMap::new(),
                tokens: pending.tokens,
                tokens_per_second,
            };
            gates.note(&pending.open, &mut record);
            records.push(record);
        }
        Ok((records, time))
    }
}

impl GateHistory {
    /// Writes down which gates a step left open, and what that changed.
    fn note(&mut self, masks: &[Tensor], record: &mut StepRecord) {
        for ((name, before), mask) in self.open.iter_mut().zip(masks) {
            let now = bools(mask);
            let n_head = self.n_head;
            let turned = |to: bool| -> Vec<Gate> {
                let pairs = before.iter().zip(&now).enumerate();
                let turned = pairs.filter(|(_, (was, is))| was != is && **is == to);
                turned
                    .map(|(index, _)| (index / n_head, index % n_head))
                    .collect()
            };
            for (list, gates) in [
                (&mut record.opened, turned(true)),
                (&mut record.closed, turned(false)),
            ] {
                if !gates.is_empty() {
                    list.insert((*name).to_owned(), gates);
                }
            }
            let count = now.iter().filter(|open| **open).count();
            record.open.insert((*name).to_owned(), count);
            *before = now;
        }
    }
}

fn bools(mask: &Tensor) -> Vec<bool> {
    Vec::try_from(mask.flatten(0, -1)).expect("one bool per gate")
}

/// Single numbers on the device, read together.
fn numbers<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<f64> {
    let tensors: Vec<&Tensor> = tensors.collect();
    if tensors.is_empty() {
        return Vec::new();
    }
    let stacked = Tensor::stack(&tensors, 0).to_kind(Kind::Double);
    Vec::try_from(stacked).expect("one number per tensor")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(step: usize, loss: f64, open: [bool; 4]) -> Pending {
        Pending {
            step,
            phase: Phase::Prune,
            lr: 0.1,
            gate_lr: 0.2,
            tokens: 5,
            loss: Tensor::from(loss),
            lambda: (step % 2 == 1).then(|| Tensor::from(step as f64)),
            open: vec![Tensor::from_slice(&open).view([2, 2])],
        }
    }

    fn history() -> GateHistory {
        GateHistory {
            open: vec![("scale", vec![true; 4])],
            n_head: 2,
        }
    }

    #[test]
    fn records_tell_which_gates_turned() {
        let (mut window, mut gates) = (Window::default(), history());
        window.push(pending(0, 3.0, [true, true, false, true]));
        window.push(pending(1, 2.0, [true, false, true, true]));
        let (records, _) = window.read(&mut gates).unwrap();
        assert_eq!(window.len(), 0);
        let turned = |list: &BTreeMap<String, Vec<Gate>>| list.get("scale").cloned();
        assert_eq!((records[0].step, records[0].loss), (1, 3.0));
        assert_eq!((records[0].lambda, records[1].lambda), (0.0, 1.0));
        assert_eq!(turned(&records[0].closed), Some(vec![(1, 0)]));
        assert_eq!(turned(&records[0].opened), None);
        assert_eq!(turned(&records[1].closed), Some(vec![(0, 1)]));
        assert_eq!(turned(&records[1].opened), Some(vec![(1, 0)]));
        assert_eq!(records[1].open["scale"], 3);
        let line = serde_json::to_string(&records[1]).unwrap();
        assert_eq!(
            serde_json::from_str::<StepRecord>(&line).unwrap(),
            records[1]
        );
    }

    #[test]
    fn rows_exact_come_before_a_loss_that_confident_mistakes_raise() {
        let of = |loss, exact| Validation { loss, exact };
        let before = of(1.092, 0.19);
        assert!(of(1.169, 0.48).is_better(&before, 100));
        assert!(!before.is_better(&of(1.169, 0.48), 100));
        assert!(of(1.0, 0.19).is_better(&before, 100));
        assert!(!before.is_better(&before, 100));
        // Free text is hardly ever exact.
        assert!(of(2.0, 0.0).is_better(&of(2.1, 0.04), 100));
        assert!(!of(2.1, 0.04).is_better(&of(2.0, 0.0), 100));
        assert!(of(2.1, 0.05).is_better(&of(2.0, 0.04), 100));
    }

    /// As in the demo, where it cost three of 102 test rows.
    #[test]
    fn one_lucky_row_does_not_outweigh_a_far_lower_loss() {
        let of = |loss, rows: f64| Validation {
            loss,
            exact: rows / 48.0,
        };
        assert!(of(0.1132, 43.0).is_better(&of(0.1935, 44.0), 48));
        assert!(!of(0.1935, 44.0).is_better(&of(0.1132, 43.0), 48));
        assert!(of(0.1935, 45.0).is_better(&of(0.1132, 43.0), 48));
    }

    #[test]
    fn the_first_loss_that_is_no_number_is_named() {
        let (mut window, mut gates) = (Window::default(), history());
        for (step, loss) in [(7, 1.0), (8, f64::NAN), (9, f64::INFINITY)] {
            window.push(pending(step, loss, [true; 4]));
        }
        match window.read(&mut gates) {
            Err(Error::Diverged { step: 9, loss }) => assert!(loss.is_nan()),
            other => panic!("{other:?}"),
        }
    }
}
