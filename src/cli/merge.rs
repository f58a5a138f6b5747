//! `llama-jola merge`: several edits as one file.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use jola_edit::edit_set::{merge, MergeSource};
use jola_edit::sidecar::sha256;
use jola_edit::{Output, Sidecar};

use super::args::parse_multiplied;
use super::output::edited;

#[derive(Args)]
#[command(
    after_help = "Edits are applied in the order given; scales also multiply the offsets before \
    them. The merged edit at strength 1 is the list; at another strength it is not."
)]
pub struct MergeArgs {
    /// Sidecars, each with its strength (1: as trained), split on the last colon
    #[arg(value_name = "EDIT.gguf[:STRENGTH]", required = true, value_parser = parse_multiplied)]
    edits: Vec<(PathBuf, f32)>,
    /// Sidecar to write
    #[arg(short, long, value_name = "EDIT.gguf")]
    output: PathBuf,
    /// What the edit is, free text [default: the output's name]
    #[arg(long)]
    name: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A file that is missing or broken, edits for different models, an output that cannot be
/// written.
pub fn run(args: &MergeArgs) -> Result<()> {
    let inputs: Vec<&PathBuf> = args.edits.iter().map(|(path, _)| path).collect();
    let output = Output::new(&args.output, &inputs)?;
    let mut read = Vec::new();
    for (path, strength) in &args.edits {
        let sidecar = Sidecar::read(path)?;
        for warning in &sidecar.warnings {
            eprintln!("warning: {}: {warning}", path.display());
        }
        let sha256 = sha256(path).with_context(|| format!("reading {}", path.display()))?;
        read.push((sidecar, *strength, sha256));
    }
    let sources: Vec<_> = read
        .iter()
        .map(|(sidecar, strength, sha256)| MergeSource {
            sidecar,
            strength: *strength,
            sha256,
        })
        .collect();
    let merged = merge(&sources).with_context(|| {
        let names = inputs.iter().map(|path| path.display().to_string());
        format!("merging {}", names.collect::<Vec<_>>().join(", "))
    })?;
    let mut sidecar = merged.sidecar;
    sidecar.name = args.name.clone().unwrap_or_else(|| {
        let stem = args.output.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    });
    sidecar.write_output(&output)?;
    let edited = edited(&sidecar.stats());
    eprintln!("{}: {edited}", args.output.display());
    if merged.rounded > 0 {
        eprintln!(
            "note: {} factors below a half differ from the list's in their last bits",
            merged.rounded
        );
    }
    Ok(())
}
