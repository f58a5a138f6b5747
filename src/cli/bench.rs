/*!
`llama-jola bench`: what the edits cost on this machine.
*/

use anyhow::{bail, Result};
use clap::Args;
use llama_jola::bench::{paired, BenchParams, Ratio};

use super::{args::ModelArgs, progress};

#[derive(Args)]
#[command(
    after_help = "Each pair processes the same tokens without and with the edits, right after \
    another and in turning order. The ratio of times within a pair is what counts: 1.00 means \
    that the edits cost nothing."
)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt
    #[arg(short = 'p', long, default_value_t = 256, value_name = "N")]
    n_prompt: usize,
    /// Tokens decoded one by one
    #[arg(short, long, default_value_t = 64, value_name = "N")]
    n_gen: usize,
    /// Pairs to measure
    #[arg(short, long, default_value_t = 15, value_name = "N")]
    repetitions: usize,
    /// Print the result as one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.n_prompt == 0 || args.n_gen == 0 || args.repetitions == 0 {
        bail!("-p, -n and -r must be at least 1");
    }
    let (model, adapters, params) = args.model.load(1)?;
    if adapters.is_empty() {
        bail!("there is nothing to compare: give --jola an edit (or --lora an adapter) that changes something");
    }
    let bar = progress::bar(args.repetitions, "bench", "pairs");
    let bench = BenchParams {
        n_prompt: args.n_prompt,
        n_gen: args.n_gen,
        pairs: args.repetitions,
    };
    let report = paired(&model, &params, &adapters, &bench, |k| {
        bar.set_position(k as u64)
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!(
        "{} layers edited, {} LoRA adapters, {} pairs",
        report.edited_layers, report.loras, report.pairs
    );
    let line = |what: &str, ratio: &Ratio| {
        println!(
            "{what:<8} {:>9.1} tokens/s unedited  {:>9.1} edited  time ratio {:.4} (quartiles {:.4} to {:.4})",
            ratio.unedited_tokens_per_s,
            ratio.edited_tokens_per_s,
            ratio.time_ratio,
            ratio.quartiles[0],
            ratio.quartiles[1]
        );
    };
    line("prefill", &report.prefill);
    line("decode", &report.decode);
    Ok(())
}
