//! `llama-jola inspect`: what a sidecar edits, as a table, as JSON, as a picture; or what a base
//! model is.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context as _, Result};
use clap::Args;
use jola_edit::gguf::{Gguf, Splits};
use jola_edit::sidecar::{BaseShape, BaseWeights, SidecarStats};
use jola_edit::{Output, Sidecar};
use serde_json::json;

use super::args::without_strength;
use super::output::{print, print_json};
use super::{describe, heatmap};

#[derive(Args)]
pub struct InspectArgs {
    /// Sidecar or base model to look at
    #[arg(value_name = "FILE.gguf")]
    edit: PathBuf,
    /// Base model to check it against, with its sha256
    #[arg(short, long, value_name = "BASE.gguf")]
    model: Option<PathBuf>,
    /// Print everything as one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Draw scale and offset norms, layer by head, as an SVG picture
    #[arg(long, value_name = "OUT.svg")]
    plot: Option<PathBuf>,
    /// Of a base model: prove by loading it that edits reach every layer
    #[arg(long)]
    load: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<()> {
    let inputs = std::iter::once(&args.edit).chain(&args.model);
    let inputs: Vec<&PathBuf> = inputs.collect();
    let plot = args.plot.as_ref().map(|path| Output::new(path, &inputs));
    let plot = plot.transpose()?;
    if let Some(file) = without_strength(&args.edit) {
        bail!(
            "there is no file {}; name the file without its strength: {}",
            args.edit.display(),
            file.display()
        );
    }
    if describe::is_model(Gguf::open(&args.edit)?.metadata()) {
        if args.model.is_some() || args.plot.is_some() {
            bail!(
                "{} is a model: --model and --plot are for sidecars",
                args.edit.display()
            );
        }
        return describe::run(&args.edit, args.load, args.json);
    }
    let sidecar = Sidecar::read(&args.edit)?;
    for warning in &sidecar.warnings {
        eprintln!("warning: {}: {warning}", args.edit.display());
    }
    let bytes = std::fs::metadata(&args.edit)?.len();
    let same_file = args
        .model
        .as_deref()
        .map(|base| check_base(&sidecar, base))
        .transpose()?;
    let stats = sidecar.stats();
    if let Some(plot) = plot {
        let svg = heatmap::svg(&sidecar, &stats);
        plot.write(|out| out.write_all(svg.as_bytes()))?;
    }
    if args.json {
        print_json(&sidecar.summary(bytes, same_file.flatten()))?;
    } else {
        print(|out| write_table(out, &args.edit, &sidecar, &stats, bytes, same_file))?;
    }
    Ok(())
}

/// Refuses a base that the sidecar does not fit; otherwise tells whether it is the very file
/// that the edit was trained on (`None` when the sidecar does not say).
fn check_base(sidecar: &Sidecar, base: &Path) -> Result<Option<bool>> {
    let splits = Splits::open(base)?;
    sidecar
        .check_base(&BaseShape::from_gguf(splits.first())?)
        .with_context(|| format!("the sidecar does not fit {}", base.display()))?;
    if let Some(doubt) = sidecar.doubt_base(&BaseWeights::of(&splits)) {
        eprintln!("warning: {}: {doubt}", base.display());
    }
    let Some(expected) = &sidecar.base_sha256 else {
        return Ok(None);
    };
    match splits.sha256() {
        Ok(found) => Ok(Some(found == *expected)),
        Err(error) => bail!("reading {}: {error}", base.display()),
    }
}

fn write_table(
    out: &mut dyn Write,
    path: &Path,
    sidecar: &Sidecar,
    stats: &SidecarStats,
    bytes: u64,
    same: Option<Option<bool>>,
) -> io::Result<()> {
    writeln!(out, "{}: {} ({bytes} bytes)", path.display(), sidecar.name)?;
    writeln!(
        out,
        "  base      {} ({})",
        sidecar.base_model_name, sidecar.architecture
    )?;
    match same {
        Some(Some(true)) => writeln!(
            out,
            "            the given model is the file it was trained on"
        )?,
        Some(Some(false)) => {
            writeln!(out, "            the given model has the right shape, but is another file than it was trained on")?
        }
        Some(None) => writeln!(out, "            the given model has the right shape")?,
        None => {}
    }
    writeln!(out, "  method    {}", sidecar.method)?;
    writeln!(
        out,
        "  edited    {} of {} heads, in {} of {} layers: {} scales, {} offsets, {} numbers",
        stats.edited_heads,
        stats.heads,
        stats.edited_layers,
        stats.layers,
        stats.open_mul,
        stats.open_add,
        stats.values
    )?;
    let keys = sidecar.train.iter().map(|(key, _)| key.len());
    let width = keys.max().unwrap_or(0).max(9);
    for (key, value) in sidecar.train.iter() {
        writeln!(out, "  {key:<width$} {}", json!(value))?;
    }
    if stats.norms.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n  layer  head  |scale|  |offset|")?;
    let cell = |norm: Option<f64>| norm.map_or("-".to_owned(), |norm| format!("{norm:.4}"));
    for head in &stats.norms {
        let (mul, add) = (cell(head.mul), cell(head.add));
        writeln!(
            out,
            "  {:>5}  {:>4}  {mul:>7}  {add:>8}",
            head.layer, head.head
        )?;
    }
    Ok(())
}
