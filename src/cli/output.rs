//! What commands say. `println!` panics when whoever reads it has gone, or the disk is full.

use std::io::{self, Write};

use anyhow::{Context, Result};
use jola_edit::sidecar::SidecarStats;
use serde::Serialize;

/// Lets `write` write to standard output.
///
/// # Errors
/// What it met there; [`io::ErrorKind::BrokenPipe`] when the reader has gone.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = write(&mut out).and_then(|()| out.flush());
    written.context("writing to standard output")
}

/// What a sidecar that was written edits, for a line of the log.
pub fn edited(stats: &SidecarStats) -> String {
    format!(
        "{} of {} heads, {} scales, {} offsets",
        stats.edited_heads, stats.heads, stats.open_mul, stats.open_add
    )
}

/// Prints a line of JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value)?;
    print(|out| writeln!(out, "{line}"))
}
