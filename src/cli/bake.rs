//! `llama-jola bake`: a model with its edits as weights, for programs that know nothing of edits.

use std::path::PathBuf;

use anyhow::{bail, Context as _, Result};
use clap::{Args, ValueEnum};
use jola_edit::sidecar::sha256;
use jola_edit::Output;
use llama_jola::bake::{bake, BakeParams, Ingredient, OutType, Report, MAX_KL};
use serde_json::json;

use super::args::ModelArgs;
use super::output::print_json;

#[derive(Args)]
#[command(
    after_help = "The result runs in any llama.cpp, Ollama or LM Studio. Scales become columns of \
    the output projections; offsets become their bias, where llama.cpp reads one for the \
    architecture. A split base becomes one file."
)]
pub struct BakeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Model to write
    #[arg(short, long, value_name = "OUT.gguf")]
    output: PathBuf,
    /// Type of the changed weights; auto: the smallest that stays within --max-kl, but none
    /// smaller than the base's
    #[arg(long, value_enum, default_value = "auto", value_name = "TYPE")]
    outtype: OutTypeArg,
    /// Largest mean KL divergence from the live edit, in nats, that auto accepts
    #[arg(long, default_value_t = MAX_KL, value_name = "X")]
    max_kl: f64,
    /// Print the result as one JSON object on the last line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutTypeArg {
    Auto,
    Keep,
    #[value(name = "q8_0")]
    Q8_0,
    F16,
    Bf16,
    F32,
}

impl From<OutTypeArg> for OutType {
    fn from(arg: OutTypeArg) -> Self {
        match arg {
            OutTypeArg::Auto => Self::Auto,
            OutTypeArg::Keep => Self::Keep,
            OutTypeArg::Q8_0 => Self::Q8_0,
            OutTypeArg::F16 => Self::F16,
            OutTypeArg::Bf16 => Self::Bf16,
            OutTypeArg::F32 => Self::F32,
        }
    }
}

/// Runs the command.
pub fn run(args: &BakeArgs) -> Result<()> {
    let output = Output::new(&args.output, &args.model.inputs())?;
    let (model, adapters, context) = args.model.load(1)?;
    if !adapters.loras.is_empty() {
        bail!("bake merges edits only: llama.cpp's llama-export-lora merges LoRA adapters");
    }
    args.model.warn_of_template(&model)?;
    let sidecars = args.model.sidecars()?;
    let ingredients = sidecars
        .iter()
        .map(|(path, sidecar, strength)| {
            let sha256 = sha256(path).with_context(|| format!("reading {}", path.display()))?;
            Ok(Ingredient {
                name: sidecar.name.clone(),
                sha256,
                strength: *strength,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let params = BakeParams {
        outtype: args.outtype.into(),
        max_kl: args.max_kl,
        model: args.model.model_params(),
        context,
    };
    let report = bake(&model, &adapters.edits, &ingredients, &output, &params)?;
    tell(args, &report);
    if args.json {
        print_json(&to_json(args, &report))?;
    }
    Ok(())
}

/// The result for people, on stderr.
fn tell(args: &BakeArgs, report: &Report) {
    for (outtype, comparison) in &report.rejected {
        eprintln!(
            "{outtype}: its rounding alone is a mean KL of {:.1e} from the live edit, more than \
             {:e}",
            comparison.mean_kl, args.max_kl
        );
    }
    if let Some(found) = &report.weights_only {
        eprintln!(
            "{}: its rounding alone is a mean KL of {:.1e} from the live edit",
            report.outtype, found.mean_kl
        );
    }
    let found = &report.as_run;
    eprintln!(
        "as llama.cpp computes it: mean KL {:.1e}, the same first choice at {} of {} tokens",
        found.mean_kl, found.same_top, found.tokens
    );
    if report.base_files > 1 {
        eprintln!("the {} files of the base became one", report.base_files);
    }
    for changed in &report.changed {
        let from = changed.from.unwrap_or("new");
        eprintln!("  {:<32} {from} -> {}", changed.tensor, changed.to);
    }
    eprintln!(
        "{}: {} tensors changed",
        args.output.display(),
        report.changed.len()
    );
}

fn to_json(args: &BakeArgs, report: &Report) -> serde_json::Value {
    let changed: Vec<_> = report
        .changed
        .iter()
        .map(|c| json!({"tensor": c.tensor, "from": c.from, "to": c.to}))
        .collect();
    let rejected: Vec<_> = report
        .rejected
        .iter()
        .map(|(outtype, comparison)| json!({"outtype": outtype.to_string(), "kl": comparison}))
        .collect();
    json!({
        "output": args.output,
        "outtype": report.outtype.to_string(),
        "weights_only": report.weights_only,
        "as_run": report.as_run,
        "rejected": rejected,
        "base_files": report.base_files,
        "changed": changed,
    })
}
