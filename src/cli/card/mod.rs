//! `llama-jola card`: the page that a model hub shows of an edit, from what its file, its run
//! directory and its evaluation know.

mod facts;
mod page;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context as _, Result};
use clap::Args;
use jola_edit::{Output, Sidecar};

use self::facts::Facts;
use super::heatmap;

/// What a page that this command wrote holds, and hardly any other.
const MARK: &str = "base_model_relation: adapter";

#[derive(Args)]
#[command(
    after_help = "docs/sharing.md tells how edit, page and picture get to a hub, and what the page \
    says."
)]
pub struct CardArgs {
    /// Sidecar to describe
    #[arg(value_name = "EDIT.gguf")]
    edit: PathBuf,
    /// Page to write; its picture goes beside it [default: README.md beside the sidecar]
    #[arg(short, long, value_name = "README.md")]
    output: Option<PathBuf>,
    /// The base model's name on the hub, as OWNER/NAME [default: its name in the sidecar]
    #[arg(long, value_name = "OWNER/NAME", value_parser = hub_name)]
    base_model: Option<String>,
    /// The edit's licence, by the hub's identifier, as apache-2.0
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Scores: what `llama-jola eval --json` printed; may be given several times
    #[arg(long, value_name = "EVAL.json")]
    eval: Vec<PathBuf>,
    /// Run directory of the training [default: EDIT.run, where it lies beside the sidecar]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

/// `OWNER/NAME`
fn hub_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let part = |part: &str| !part.is_empty() && part.chars().all(allowed);
    match text.split_once('/') {
        Some((owner, name)) if part(owner) && part(name) => Ok(text.to_owned()),
        _ => Err("expected OWNER/NAME".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// A file that is missing or broken, a page of somebody else's where this one would go.
pub fn run(args: &CardArgs) -> Result<()> {
    let sidecar = Sidecar::read(&args.edit)?;
    let folder = args.edit.parent().unwrap_or(Path::new(""));
    let page = match &args.output {
        Some(path) => path.clone(),
        None => own_page(folder.join("README.md"))?,
    };
    let mut inputs = vec![args.edit.clone()];
    inputs.extend(args.eval.iter().cloned());
    let name = args.edit.file_name().unwrap_or_default();
    let picture = page.with_file_name(name).with_extension("svg");
    let output = Output::new(&page, &inputs)?;
    let beside = is_file_to_be(&page).then(|| Output::new(&picture, &inputs));
    let beside = beside.transpose()?;
    let facts = Facts::gather(args, &sidecar)?;
    let stats = sidecar.stats();
    let shown = beside.as_ref().and_then(|_| picture.file_name());
    let text = page::write(
        &facts,
        &stats,
        shown.map(|name| name.to_string_lossy()).as_deref(),
    );
    if let Some(beside) = &beside {
        let svg = heatmap::svg(&sidecar, &stats);
        beside.write(|out| out.write_all(svg.as_bytes()))?;
    }
    output.write(|out| out.write_all(text.as_bytes()))?;
    if args.base_model.is_none() {
        eprintln!(
            "note: hubs find an edit by its base model's name there: --base-model OWNER/NAME"
        );
    }
    Ok(())
}

/// Whether a picture can lie beside the page: not where it goes to a pipe or the terminal.
fn is_file_to_be(page: &Path) -> bool {
    !page.exists() || page.is_file()
}

/// The page beside the sidecar, unless somebody else wrote it.
fn own_page(page: PathBuf) -> Result<PathBuf> {
    if page.exists() {
        let text = std::fs::read_to_string(&page);
        let text = text.with_context(|| format!("reading {}", page.display()))?;
        if !text.contains(MARK) {
            bail!(
                "{} is somebody else's page: name another with -o",
                page.display()
            );
        }
    }
    Ok(page)
}
