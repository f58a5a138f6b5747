//! Training: the loop over steps and what it needs.
//!
//! `settings` and `recipe` say how, `schedule` and `rates` what happens at which step,
//! `gradient` computes the loss and its gradient, `penalty` adds what closes gates, `optimiser`
//! takes the step, `validation` and `measured` tell how good the result is. `trainer` is a run,
//! `run` its loop, `step` a step of it, and `stages` what comes before and between the stages: the
//! `unedited` model, the `rate_search`, the `restart` at a lower rate, and the `path` of candidates. `step_record`, `state` and
//! `observer` are what a run tells those who watch it; `estimate` and `memory` are what it will
//! take.

mod answers;
mod choice;
mod estimate;
mod gate_history;
mod gradient;
mod mean;
mod measured;
mod memory;
mod observer;
mod optimiser;
mod path;
mod penalty;
mod rate_search;
mod rates;
mod recipe;
mod restart;
mod run;
mod schedule;
mod settings;
mod stages;
mod state;
mod step;
mod step_record;
mod streams;
mod trainer;
mod unedited;
mod unread_steps;
mod validation;
mod weights_memory;

pub use answers::Answers;
pub use estimate::{estimate, Estimate};
pub use gradient::{backward, cross_entropy, Losses};
pub use measured::Measured;
pub use observer::Observer;
pub use path::{Candidate, Candidates};
pub use rate_search::Trial;
pub use recipe::{Recipe, PAPER_LAMBDA, PAPER_LR};
pub use schedule::{Phase, Plan, Stage};
pub use settings::{Defaults, Rate, Settings, PATH_EPOCHS, PATH_ROWS, SHORTEST_PATH};
pub use state::{Counters, State};
pub use step_record::{Event, Gate, StepRecord, ValidationRecord};
pub use trainer::{Outcome, Trainer};
pub use unedited::{Unedited, Verdict};
pub use validation::{evaluate, RowScores, StageResult, Validation};
