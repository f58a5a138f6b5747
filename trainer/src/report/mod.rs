//! What a run shows and leaves behind: progress for its user and, in the run directory, its
//! configuration, metrics, pictures and checkpoint.

mod chart;
mod checkpoint;
pub(crate) mod plots;
mod progress;
mod run_config;
pub(crate) mod run_dir;
pub(crate) mod run_files;
mod watcher;

pub(crate) use progress::Reporter;
pub(crate) use run_config::{RunConfig, OPTIONS, SPLIT_SEED};
pub(crate) use run_dir::RunDir;
pub(crate) use watcher::Watcher;
