//! What a run leaves behind.

pub mod checkpoint;
pub mod plots;
pub mod progress;
pub mod run_config;
pub mod run_dir;
pub mod watcher;
