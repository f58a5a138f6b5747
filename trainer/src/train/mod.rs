//! The training loop.

pub mod estimate;
pub mod gradient;
pub mod memory;
pub mod optimiser;
pub mod penalty;
pub mod recipe;
pub mod schedule;
pub mod state;
pub mod step_record;
pub mod trainer;
pub mod validation;
