//! Training: the loop over steps and what it needs.
//!
//! `settings` and `recipe` say how, `schedule` and `rates` what happens at which step,
//! `gradient` computes the loss and its gradient, `penalty` adds what closes gates, `optimiser`
//! takes the step, `validation` measures the result, `trainer` is the loop. `step_record`,
//! `state` and `observer` are what a run tells those who watch it; `estimate` and `memory` are
//! what it will take.

mod choice;
mod estimate;
mod gate_history;
mod gradient;
mod memory;
mod observer;
mod optimiser;
mod penalty;
mod rates;
mod recipe;
mod schedule;
mod settings;
mod state;
mod step_record;
mod streams;
mod trainer;
mod unread_steps;
mod validation;

pub use estimate::{estimate, Estimate};
pub use gradient::{backward, cross_entropy};
pub use observer::Observer;
pub use recipe::{Recipe, PAPER_LAMBDA, PAPER_LR};
pub use schedule::{Phase, Plan};
pub use settings::{Defaults, Settings};
pub use state::{Counters, State};
pub use step_record::{Gate, StepRecord, ValidationRecord};
pub use trainer::{Outcome, Trainer};
pub use validation::{evaluate, Validation};
