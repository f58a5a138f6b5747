//! What watches a run.

use super::state::State;
use super::step_record::{Event, StepRecord, ValidationRecord};

/// Someone who watches a run.
pub trait Observer {
    /// Whether the records of the last steps are wanted now; asked after every step.
    fn due(&mut self) -> bool {
        false
    }
    /// Records of the last steps, in order; every step comes once.
    fn steps(&mut self, _records: &[StepRecord]) {}
    /// Anything else that is done.
    fn event(&mut self, _event: &Event) {}
    /// The result of a validation, as soon as it is done.
    fn validated(&mut self, _record: &ValidationRecord) {}
    /// Something to tell the user, one line.
    fn log(&mut self, _line: &str) {}
    /// Whether [`checkpoint`](Self::checkpoint) is wanted now; asked after every step.
    fn checkpoint_due(&mut self) -> bool {
        false
    }
    /// Where the run stood after the steps that records have come for; the loss that its
    /// parameters lead to is finite.
    fn checkpoint(&mut self, _state: &State) {}
}

/// Nobody watches.
impl Observer for () {}
