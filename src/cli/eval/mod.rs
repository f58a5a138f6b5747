//! `llama-jola eval`: how well the model, edited or not, does on a data file.

mod cases;
mod curve;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{bail, Context as _, Result};
use clap::{Args, ValueEnum};
use jola_edit::{EditSet, Output};
use llama_jola::chat::ChatTemplate;
use llama_jola::data::{read_rows, Row};
use llama_jola::eval::{compare, Comparison, Metric, Params, Prediction, Report, Task, Test};
use llama_jola::{Adapters, Context, Model};
use serde::Serialize;

use super::args::{warn_of, ModelArgs, TokensArgs};
use super::output::{print, print_json};
use super::progress;
use cases::{Case, Results};

#[derive(Args)]
#[command(
    after_help = "The data file is JSON Lines, one row a line, in any of the forms that \
    jola-train reads:\n  {\"prompt\", \"completion\"}\n  {\"messages\": [{\"role\", \"content\"}, …]}\n  \
    {\"instruction\", \"input\", \"output\", \"answer\"}\n\
    with \"references\" (texts that are right as well) and \"choices\" if need be.\n\n\
    Which metric?\n  \
    exact       the answer must be an accepted text and nothing else: classes, short answers\n  \
    match       like exact, but the answer may have words around it: the first choice that\n              \
    it names counts\n  \
    choice      the model does not write; the likeliest of the choices counts\n  \
    bleu        free text against all references, 0 to 100, as sacrebleu\n  \
    rouge-l     free text against the best reference, 0 to 1, as rouge-score\n  \
    perplexity  how surprised the model is by the completions; lower is better\n\
    Choices are a row's \"choices\", or else all completions in the file. An answer ends at its \
    first line break if all accepted texts are single lines.\n\n\
    Has the edit helped?\n  \
    llama-jola eval -m base.gguf --jola edit.gguf --data test.jsonl --compare\n\n\
    Which edit is best, and how strong should it be?\n  \
    llama-jola eval -m base.gguf --each a.gguf b.gguf --data test.jsonl --compare\n  \
    llama-jola eval -m base.gguf --jola edit.gguf --data test.jsonl --strength 0,0.5,1,1.5"
)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    tokens: TokensArgs,
    /// Rows to score (JSON Lines)
    #[arg(short, long, value_name = "TEST.jsonl")]
    data: PathBuf,
    /// How to score; see below
    #[arg(long, value_enum, default_value = "exact")]
    metric: MetricArg,
    /// Score several edits in one pass, each by itself
    #[arg(long, num_args = 1.., value_name = "EDIT.gguf", conflicts_with_all = ["jola", "jola_scaled", "strength"])]
    each: Vec<PathBuf>,
    /// Score the edits of --jola at several strengths in one pass: their own times each of these
    #[arg(
        long,
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_name = "S,S,…"
    )]
    strength: Vec<f32>,
    /// Draw the score over the strengths (SVG)
    #[arg(long, value_name = "FILE.svg", requires = "strength")]
    plot: Option<PathBuf>,
    /// Run without and with the edits, and test whether the difference may be chance
    #[arg(long)]
    compare: bool,
    /// Score only the first N rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Most tokens of an answer [default: 32; bleu, rouge-l: 256]
    #[arg(short, long, value_name = "N")]
    n_predict: Option<usize>,
    /// Divide log-likelihoods by the number of tokens (choice)
    #[arg(long)]
    per_token: bool,
    /// Put plain prompts through the model's chat template, as `jola-train --chat` does
    #[arg(long)]
    chat: bool,
    /// Answers to write at once [-np]
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
enum MetricArg {
    Exact,
    Match,
    Choice,
    Bleu,
    RougeL,
    Perplexity,
}

impl From<MetricArg> for Metric {
    fn from(arg: MetricArg) -> Self {
        match arg {
            MetricArg::Exact => Self::Exact,
            MetricArg::Match => Self::Match,
            MetricArg::Choice => Self::Choice,
            MetricArg::Bleu => Self::Bleu,
            MetricArg::RougeL => Self::RougeL,
            MetricArg::Perplexity => Self::Perplexity,
        }
    }
}

impl EvalArgs {
    fn params(&self) -> Result<Params> {
        let metric = self.metric.into();
        let free_text = matches!(metric, Metric::Bleu | Metric::RougeL);
        let any_edit = !self.each.is_empty() || self.model.sidecar_files().next().is_some();
        Ok(Params {
            metric,
            n_predict: self.n_predict.unwrap_or(if free_text { 256 } else { 32 }),
            per_token: self.per_token,
            parallel: self.parallel,
            edited: self.tokens.edited(any_edit)?,
        })
    }

    /// The rows to score, and what rows without choices of their own choose from.
    fn rows(&self) -> Result<(Vec<Row>, Vec<String>)> {
        let mut rows = read_rows(&self.data, None)?;
        let plain = rows.iter().filter(|row| row.choices.is_empty());
        let choices: BTreeSet<String> = plain.map(|row| row.completion.clone()).collect();
        let chooses = matches!(self.metric, MetricArg::Choice | MetricArg::Match);
        if chooses && choices.len() == 1 {
            bail!(
                "{}: all completions are the same, there is nothing to choose from",
                self.data.display()
            );
        }
        rows.truncate(self.limit.unwrap_or(usize::MAX));
        if rows.is_empty() {
            bail!("--limit 0 leaves no rows to score");
        }
        if self.chat {
            rows = rows.into_iter().map(Row::into_chat).collect();
        }
        let choices = if chooses { choices } else { BTreeSet::new() };
        Ok((rows, choices.into_iter().collect()))
    }

    fn task(
        &self,
        rows: &[Row],
        choices: Vec<String>,
        params: Params,
        model: &Model,
    ) -> Result<Task> {
        let chat = rows.iter().any(Row::is_chat);
        let template = chat.then(|| ChatTemplate::from_model(model)).transpose()?;
        if chat {
            self.warn_of_prompts(template.as_ref())?;
        }
        if !rows.iter().all(Row::is_chat) {
            self.warn_of_prompts(None)?;
        }
        Ok(Task::new(rows, &choices, params, model, template.as_ref())?)
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let predictions = args.output(args.predictions.as_ref())?;
    let plot = args.output(args.plot.as_ref())?;
    let scoring = args.params()?;
    let (rows, choices) = args.rows()?;
    let (model, adapters, params) = args.model.load(1)?;
    let cases = args.cases(&model)?;
    if cases.is_empty() && args.compare && adapters.is_empty() {
        bail!("there is nothing to compare: give --jola an edit (or --lora an adapter) that changes something");
    }
    let of_data = || format!("{}", args.data.display());
    let task = args
        .task(&rows, choices, scoring, &model)
        .with_context(of_data)?;
    let n_sets = match cases.len() {
        0 => 1 + usize::from(args.compare),
        n => n + usize::from(args.compare),
    };
    let params = task.context_params_for(params, &model, n_sets);
    let params = params.with_context(of_data)?;
    let mut context = Context::new(&model, &params)?;
    let bar = progress::bar(n_sets * task.items.len(), "eval", "rows");
    let done = |rows: usize| bar.set_position(rows as u64);
    if !cases.is_empty() {
        // LoRA adapters are those of the context, in every case.
        context.set_adapters(&Adapters {
            edits: EditSet::default(),
            loras: adapters.loras,
        })?;
        let results = args.score_cases(&task, &mut context, cases, done)?;
        bar.finish_and_clear();
        let named = results
            .reports()
            .map(|(name, report)| (Told::Edit(name), report));
        write_predictions(predictions.as_ref(), &named.collect::<Vec<_>>())?;
        if let Some(plot) = plot {
            let picture = curve::picture(&args.metric_name(), &results.points());
            plot.write(|out| svg::write(out, &picture))?;
        }
        if args.json {
            print_json(&results)?;
        } else {
            print(|out| results.write(out))?;
        }
    } else if args.compare {
        let comparison = compare(&task, &mut context, &adapters, done)?;
        bar.finish_and_clear();
        let Comparison {
            unedited, edited, ..
        } = &comparison;
        write_predictions(
            predictions.as_ref(),
            &[
                (Told::Edited(false), unedited),
                (Told::Edited(true), edited),
            ],
        )?;
        if args.json {
            print_json(&comparison)?;
        } else {
            print(|out| write_comparison(out, &comparison))?;
        }
    } else {
        context.set_adapters(&adapters)?;
        let report = task.run(&mut context, done)?;
        bar.finish_and_clear();
        write_predictions(predictions.as_ref(), &[(Told::Alone, &report)])?;
        if args.json {
            print_json(&report)?;
        } else {
            let (name, score) = (args.metric_name(), shown(&report));
            print(|out| writeln!(out, "{name}: {score}, {:.1} s", report.seconds))?;
        }
    }
    Ok(())
}

fn write_comparison(out: &mut dyn Write, comparison: &Comparison) -> io::Result<()> {
    let Comparison {
        unedited,
        edited,
        difference,
        difference_ci95: [low, high],
        test,
    } = comparison;
    writeln!(
        out,
        "unedited    {}, {:.1} s",
        shown(unedited),
        unedited.seconds
    )?;
    writeln!(
        out,
        "edited      {}, {:.1} s",
        shown(edited),
        edited.seconds
    )?;
    writeln!(
        out,
        "difference  {difference:+.4} (95 % interval {low:+.4} to {high:+.4})"
    )?;
    match test {
        Test::Mcnemar {
            only_unedited,
            only_edited,
            p,
        } => writeln!(
            out,
            "p = {p:.3e}, exact McNemar test: {only_edited} rows right only with the edit, \
             {only_unedited} only without"
        )?,
        Test::PairedBootstrap { p } => writeln!(out, "p = {p:.3e}, paired bootstrap")?,
    }
    Ok(())
}

/// The score with its interval.
fn shown(report: &Report) -> String {
    let Report {
        score,
        n,
        correct,
        ci95: [low, high],
        ..
    } = report;
    let of = match correct {
        Some(correct) => format!("{correct} of {n}"),
        None => format!("{n} rows"),
    };
    format!("{score:.4} ({of}, 95 % interval {low:.4} to {high:.4})")
}

impl EvalArgs {
    fn metric_name(&self) -> String {
        let value = self.metric.to_possible_value();
        value.map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// Where to write something, if that is wanted.
    fn output(&self, path: Option<&PathBuf>) -> Result<Option<Output>> {
        let mut inputs = self.model.inputs();
        inputs.push(self.data.clone());
        inputs.extend(self.each.iter().cloned());
        Ok(path.map(|path| Output::new(path, &inputs)).transpose()?)
    }

    /// Warns about edits that were trained on another kind of prompt.
    fn warn_of_prompts(&self, template: Option<&ChatTemplate>) -> Result<()> {
        for (path, sidecar) in self.each_sidecars()? {
            warn_of(
                &path,
                sidecar.doubt_prompt(template.map(ChatTemplate::sha256)),
            );
        }
        self.model.warn_of_prompts(template)
    }

    fn score_cases(
        &self,
        task: &Task,
        context: &mut Context,
        cases: Vec<Case>,
        done: impl FnMut(usize),
    ) -> Result<Results> {
        let unedited = self.compare.then(EditSet::default);
        let edits = cases.iter().map(|case| case.edits.clone());
        let sets: Vec<EditSet> = unedited.into_iter().chain(edits).collect();
        let mut reports = task.run_each(context, &sets, done)?;
        let unedited = self.compare.then(|| reports.remove(0));
        Ok(Results::new(cases, reports, unedited))
    }
}

/// Whose line a prediction is.
#[derive(Clone, Copy)]
enum Told<'a> {
    /// The only one's.
    Alone,
    /// That without or that with the edits.
    Edited(bool),
    /// That of one edit among several.
    Edit(&'a str),
}

/// A line of the predictions file.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    edited: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edit: Option<&'a str>,
    #[serde(flatten)]
    prediction: &'a Prediction,
}

fn write_predictions(output: Option<&Output>, reports: &[(Told, &Report)]) -> Result<()> {
    let Some(output) = output else {
        return Ok(());
    };
    output.write(|out| {
        for (whose, report) in reports {
            let (edited, edit) = match *whose {
                Told::Alone => (None, None),
                Told::Edited(edited) => (Some(edited), None),
                Told::Edit(name) => (None, Some(name)),
            };
            for prediction in &report.predictions {
                let line = Line {
                    edited,
                    edit,
                    prediction,
                };
                serde_json::to_writer(&mut *out, &line)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    })?;
    Ok(())
}
