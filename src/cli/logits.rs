//! `llama-jola logits`: raw logits, to compare with the trainer's reference model.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use jola_edit::Output;

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
    let output = Output::new(&args.output, &args.model.inputs())?;
    let mut context = args.model.open(1)?;
    let logits = context.logits_of(&args.tokens)?;
    let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
    output.write(|out| out.write_all(&bytes))?;
    eprintln!(
        "{}: {} tokens x {} logits",
        args.output.display(),
        args.tokens.len(),
        context.model().n_vocab()
    );
    Ok(())
}
