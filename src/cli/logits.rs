//! `llama-jola logits`: raw logits, to compare with the trainer's reference model.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use jola_edit::atomic::write_atomically;
use std::io::Write as _;

use super::args::ModelArgs;

#[derive(Args)]
#[command(
    after_help = "The file holds little-endian 32-bit floats, row-major [n_tokens, n_vocab]; \
    `jola-train logits` writes the same layout."
)]
pub struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<i32>,
    /// File to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

/// Runs the command.
pub fn run(args: &LogitsArgs) -> Result<()> {
    let mut context = args.model.open(1)?;
    let logits = context.logits_of(&args.tokens)?;
    let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
    write_atomically(&args.output, |out| out.write_all(&bytes))
        .with_context(|| format!("writing {}", args.output.display()))?;
    eprintln!(
        "{}: {} tokens x {} logits",
        args.output.display(),
        args.tokens.len(),
        context.model().n_vocab()
    );
    Ok(())
}
