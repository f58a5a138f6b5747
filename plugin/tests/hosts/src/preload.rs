//! The environment that brings the plugin into a host.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

/// The plugin's part of a start.
#[derive(Clone, Debug, Default)]
pub struct Preload {
    /// LD_PRELOAD, if any.
    pub library: Option<PathBuf>,
    /// LLAMA_JOLA, if any.
    pub edits: Option<String>,
    /// LLAMA_JOLA_LOG, if any.
    pub log: Option<&'static str>,
}

/// Sets the variables that a host is started with.
pub fn environment(command: &mut Command, libs: &[PathBuf], preload: &Preload) -> Result<()> {
    // Nothing of the caller's own settings may reach a host.
    for name in [
        "LD_PRELOAD",
        "LLAMA_JOLA",
        "LLAMA_JOLA_LOG",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    if !libs.is_empty() {
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libs)?);
    }
    if let Some(library) = &preload.library {
        command.env("LD_PRELOAD", library);
    }
    if let Some(edits) = &preload.edits {
        command.env("LLAMA_JOLA", edits);
    }
    if let Some(log) = preload.log {
        command.env("LLAMA_JOLA_LOG", log);
    }
    Ok(())
}
