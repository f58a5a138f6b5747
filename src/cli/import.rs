//! `llama-jola import`: edits of other projects as sidecars.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use jola_edit::gguf::Splits;
use jola_edit::sidecar::BaseShape;
use jola_edit::Output;
use llama_jola::import::{import, Format, ImportBase, ImportParams};

use super::output::edited;

#[derive(Args)]
#[command(
    after_help = "Reads safetensors, PyTorch files in zip form (nothing in them is run), npy, npz \
    and the folders that pyvene saves. docs/import.md tells which names and shapes."
)]
pub struct ImportArgs {
    /// Checkpoint; all of its shards if there are several; or pyvene's folder
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Base model that the edit is for
    #[arg(short, long, value_name = "BASE.gguf")]
    model: PathBuf,
    /// Sidecar to write
    #[arg(short, long, value_name = "EDIT.gguf")]
    output: PathBuf,
    /// Whose layout the file has
    #[arg(long, value_enum, default_value = "auto", value_name = "FORMAT")]
    format: FormatArg,
    /// What the edit is, free text [default: the first file's name]
    #[arg(long)]
    name: Option<String>,
    /// Factor of ITI's offsets
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    alpha: f32,
    /// Heads of each of pyvene's interventions on single heads, in their order: 3,0+2
    #[arg(long, value_delimiter = ',', value_parser = heads, value_name = "H[+H][,…]")]
    heads: Vec<Heads>,
}

/// Heads of one intervention.
type Heads = BTreeSet<u32>;

/// `0+2`
fn heads(text: &str) -> Result<Heads, std::num::ParseIntError> {
    text.split('+').map(str::parse).collect()
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    Auto,
    Jola,
    Lofit,
    Iti,
    Pyvene,
}

impl From<FormatArg> for Format {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Auto => Self::Auto,
            FormatArg::Jola => Self::Jola,
            FormatArg::Lofit => Self::Lofit,
            FormatArg::Iti => Self::Iti,
            FormatArg::Pyvene => Self::Pyvene,
        }
    }
}

/// Runs the command.
pub fn run(args: &ImportArgs) -> Result<()> {
    let inputs: Vec<&PathBuf> = args.files.iter().chain([&args.model]).collect();
    let output = Output::new(&args.output, &inputs)?;
    let base = Splits::open(&args.model)?;
    let shape = BaseShape::from_gguf(base.first())?;
    let base_name = base
        .metadata()
        .get("general.name")
        .and_then(|name| name.as_str());
    let file_name = args.files.first().and_then(|file| file.file_stem());
    let file_name = file_name.unwrap_or_default().to_string_lossy();
    let params = ImportParams {
        format: args.format.into(),
        name: args.name.clone().unwrap_or_else(|| file_name.into_owned()),
        alpha: args.alpha,
        heads: args.heads.clone(),
    };
    let base = ImportBase {
        shape: &shape,
        name: base_name.unwrap_or_default(),
    };
    let sidecar = import(&args.files, &base, &params)
        .with_context(|| format!("importing for {}", args.model.display()))?;
    for warning in &sidecar.warnings {
        eprintln!("warning: {warning}");
    }
    sidecar.write_output(&output)?;
    let edited = edited(&sidecar.stats());
    eprintln!("{}: {edited} ({})", args.output.display(), sidecar.method);
    Ok(())
}
