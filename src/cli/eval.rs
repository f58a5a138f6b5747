/*!
`llama-jola eval`: how well the model, edited or not, does on a data file.
*/

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use llama_jola::chat::ChatTemplate;
use llama_jola::data::{read_rows, Prompt, Row};
use llama_jola::eval::{self, Item, Report};
use llama_jola::Context;

use super::{args::ModelArgs, progress};

#[derive(Args)]
#[command(
    after_help = "The data file is JSON Lines, one row a line, in any of the forms that \
    jola-train reads:\n  {\"prompt\", \"completion\"}\n  {\"messages\": [{\"role\", \"content\"}, …]}\n  \
    {\"instruction\", \"input\", \"output\", \"answer\", \"references\"}\n\n\
    exact   the greedy answer is an accepted text (up to its first line break, when all accepted \
    texts are single lines)\n\
    choice  of all completions in the file, an accepted one is the most likely"
)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Rows to score (JSON Lines)
    #[arg(short, long, value_name = "TEST.jsonl")]
    data: PathBuf,
    /// How to score
    #[arg(long, value_enum, default_value = "exact")]
    metric: Metric,
    /// Score only the first N rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Most tokens of an answer (exact)
    #[arg(short, long, default_value_t = 32)]
    n_predict: usize,
    /// Divide log-likelihoods by the number of tokens (choice)
    #[arg(long)]
    per_token: bool,
    /// Rows to answer at once (exact) [-np]
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: u32,
    /// Write what the model said to each row (JSON Lines)
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Print the result as one JSON object on the last line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metric {
    Exact,
    Choice,
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let rows = read_rows(&args.data, args.limit)?;
    let choices: Vec<String> = rows
        .iter()
        .map(|row| row.completion.clone())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let sequences = match args.metric {
        Metric::Exact => args.parallel.min(rows.len() as u32),
        Metric::Choice => eval::choice_sequences(choices.len()),
    };
    let mut context = args.model.open(sequences)?;
    let items = items(&rows, &context)?;
    let bar = progress::bar(items.len(), "eval", "rows");
    let done = |rows: usize| bar.set_position(rows as u64);
    let report = match args.metric {
        Metric::Exact => eval::exact(&mut context, &items, args.n_predict, done)?,
        Metric::Choice => eval::choice(&mut context, &items, &choices, args.per_token, done)?,
    };
    bar.finish_and_clear();
    if let Some(path) = &args.predictions {
        write_predictions(path, &report)
            .with_context(|| format!("writing predictions to {}", path.display()))?;
    }
    let Report {
        metric,
        n,
        correct,
        accuracy,
        ci95: [low, high],
        seconds,
        ..
    } = &report;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "{metric}: {accuracy:.4} ({correct} of {n}, 95 % interval {low:.4} to {high:.4}), \
             {seconds:.1} s"
        );
    }
    Ok(())
}

fn items(rows: &[Row], context: &Context) -> Result<Vec<Item>> {
    let model = context.model();
    let chat = rows.iter().any(|row| matches!(row.prompt, Prompt::Chat(_)));
    let template = chat.then(|| ChatTemplate::from_model(model)).transpose()?;
    rows.iter()
        .map(|row| {
            eval::item(row, model, template.as_ref())
                .with_context(|| format!("row in line {}", row.line))
        })
        .collect()
}

fn write_predictions(path: &PathBuf, report: &Report) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    for prediction in &report.predictions {
        serde_json::to_writer(&mut out, prediction)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
