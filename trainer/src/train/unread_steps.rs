//! Steps whose numbers are still on the device.
//!
//! They stay there until several steps are read together: each look waits for the device.

use std::collections::BTreeMap;
use std::time::Duration;

use tch::Tensor;

use super::gate_history::GateHistory;
use super::schedule::Phase;
use super::step_record::StepRecord;
use crate::readings;
use crate::Error;

/// Steps whose numbers have not been read.
#[derive(Debug, Default)]
pub(crate) struct UnreadSteps {
    steps: Vec<UnreadStep>,
    time: Duration,
}

/// A step whose numbers are still on the device.
#[derive(Debug)]
pub(crate) struct UnreadStep {
    pub step: usize,
    pub phase: Phase,
    pub lr: f64,
    pub gate_lr: f64,
    pub tokens: usize,
    pub loss: Tensor,
    /// Divergence from the unedited model; `None` where it is not looked at.
    pub kl: Option<Tensor>,
    /// λ; `None`: no penalty.
    pub lambda: Option<Tensor>,
    /// Open gates of each kind, [L, H] booleans.
    pub open: Vec<Tensor>,
}

impl UnreadSteps {
    pub fn push(&mut self, step: UnreadStep) {
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
        let masks: Vec<&Tensor> = self.steps.iter().flat_map(|step| &step.open).collect();
        let mut open = match masks.is_empty() {
            true => Vec::new().into_iter(),
            false => readings::flags(&Tensor::stack(&masks, 0)).into_iter(),
        };
        let losses = self.steps.iter().map(|step| &step.loss);
        let divergences = self.steps.iter().filter_map(|step| step.kl.as_ref());
        let mut losses = numbers(losses.chain(divergences));
        let divergences = losses.split_off(self.steps.len());
        let lambdas = numbers(self.steps.iter().filter_map(|step| step.lambda.as_ref()));
        let time = std::mem::take(&mut self.time) + begun.elapsed();
        let tokens: usize = self.steps.iter().map(|step| step.tokens).sum();
        let tokens_per_second = tokens as f64 / time.as_secs_f64().max(1e-9);
        let (mut divergences, mut lambdas) = (divergences.into_iter(), lambdas.into_iter());
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
                kl: pending.kl.and_then(|_| divergences.next()),
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
            let masks = pending.open.iter();
            let masks: Vec<Vec<bool>> = masks
                .map(|mask| open.by_ref().take(mask.numel()).collect())
                .collect();
            gates.note(masks, &mut record);
            records.push(record);
        }
        Ok((records, time))
    }
}

/// Single numbers on the device, read together.
fn numbers<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<f64> {
    let tensors: Vec<&Tensor> = tensors.collect();
    if tensors.is_empty() {
        return Vec::new();
    }
    readings::numbers(&Tensor::stack(&tensors, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::step_record::Gate;

    fn pending(step: usize, loss: f64, open: [bool; 4]) -> UnreadStep {
        UnreadStep {
            step,
            phase: Phase::Prune,
            lr: 0.1,
            gate_lr: 0.2,
            tokens: 5,
            loss: Tensor::from(loss),
            kl: step.is_multiple_of(2).then(|| Tensor::from(loss / 2.0)),
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
        let (mut unread, mut gates) = (UnreadSteps::default(), history());
        unread.push(pending(0, 3.0, [true, true, false, true]));
        unread.push(pending(1, 2.0, [true, false, true, true]));
        let (records, _) = unread.read(&mut gates).unwrap();
        assert_eq!(unread.len(), 0);
        let turned = |list: &BTreeMap<String, Vec<Gate>>| list.get("scale").cloned();
        assert_eq!((records[0].step, records[0].loss), (1, 3.0));
        assert_eq!((records[0].lambda, records[1].lambda), (0.0, 1.0));
        assert_eq!((records[0].kl, records[1].kl), (Some(1.5), None));
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
    fn the_first_loss_that_is_no_number_is_named() {
        let (mut unread, mut gates) = (UnreadSteps::default(), history());
        for (step, loss) in [(7, 1.0), (8, f64::NAN), (9, f64::INFINITY)] {
            unread.push(pending(step, loss, [true; 4]));
        }
        match unread.read(&mut gates) {
            Err(Error::Diverged { step: 9, loss }) => assert!(loss.is_nan()),
            other => panic!("{other:?}"),
        }
    }
}
