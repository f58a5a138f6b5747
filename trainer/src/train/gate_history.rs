//! Which gates are open after each step, and which of them a step turned.

use tch::Tensor;

use super::step_record::{Gate, StepRecord};
use crate::readings;

/// The gates of a run as the records tell of them.
#[derive(Debug)]
pub(crate) struct GateHistory {
    /// Layers and heads of each kind of gate that is open.
    pub(super) open: Vec<(&'static str, Vec<bool>)>,
    pub(super) n_head: usize,
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
        let open = masks
            .iter()
            .map(|(name, mask)| (*name, readings::flags(mask)));
        GateHistory {
            open: open.collect(),
            n_head,
        }
    }

    /// Writes down which gates a step left open, and what that changed.
    pub fn note(&mut self, masks: Vec<Vec<bool>>, record: &mut StepRecord) {
        for ((name, before), now) in self.open.iter_mut().zip(masks) {
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
