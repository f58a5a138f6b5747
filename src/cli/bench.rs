//! `llama-jola bench`: what the edits cost on this machine.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{bail, Result};
use clap::Args;
use jola_edit::EditSet;
use llama_jola::bench::{
    every_head, load_times, paired, random_lora, random_loras, variants, BenchParams, Cost,
    LoadTimes, LoraTargets, Ratio, Route,
};
use llama_jola::{Adapters, ContextParams, Model};
use serde::Serialize;

use super::output::{print, print_json};
use super::{args::ModelArgs, progress};

#[derive(Args)]
#[command(
    after_help = "Each pair processes the same tokens without and with the edits, right after \
    another and in turning order. The ratio of times within a pair is what counts: 1.00 means \
    that the edits cost nothing.\n\n\
    The worst case against its rivals, 8 sequences at once:\n  \
    llama-jola bench -m base.gguf --every-head all.gguf --eval-callback --lora-rank 8 -np 8\n\n\
    Many different edits in one batch, and as many LoRAs:\n  \
    llama-jola bench -m base.gguf --every-head all.gguf --sets 1,8,64 --lora-rank 8 -np 32"
)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Instead of --jola: write random edits of every head in every layer to FILE, and
    /// measure them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["jola", "jola_scaled"])]
    every_head: Option<PathBuf>,
    /// Also measure the same edits by llama.cpp's eval callback
    #[arg(long)]
    eval_callback: bool,
    /// Also measure random LoRAs of that rank on the edited layers: of W_O, and of all of
    /// attention's matrices
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    lora_rank: Option<u32>,
    /// Also measure so many different edits, loaded at once, that sequences have in turn; with
    /// --lora-rank also as many LoRAs of W_O, which llama.cpp decodes one after another
    #[arg(long, value_delimiter = ',', value_name = "N,N,…", value_parser = clap::value_parser!(u32).range(1..=4096))]
    sets: Vec<u32>,
    /// Tokens of a prompt
    #[arg(short = 'p', long, default_value_t = 256, value_name = "N")]
    n_prompt: usize,
    /// Tokens decoded one by one
    #[arg(short, long, default_value_t = 64, value_name = "N")]
    n_gen: usize,
    /// Sequences at once [-np]
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    parallel: u32,
    /// Pairs to measure
    #[arg(short, long, default_value_t = 15, value_name = "N")]
    repetitions: usize,
    /// Print the result as one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    n_prompt: usize,
    n_gen: usize,
    parallel: u32,
    pairs: usize,
    edited_layers: usize,
    loras: usize,
    load: LoadTimes,
    routes: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    route: String,
    #[serde(flatten)]
    cost: Cost,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.n_prompt == 0 || args.n_gen == 0 || args.repetitions == 0 {
        bail!("-p, -n and -r must be at least 1");
    }
    let (model, mut adapters, params) = args.model.load(1)?;
    let mut files: Vec<(PathBuf, f32)> = args.model.sidecar_files().collect();
    if let Some(path) = &args.every_head {
        let sidecar = every_head(model.shape());
        adapters.edits = model.compose(&[(&sidecar, 1.0)])?;
        sidecar.write(path)?;
        files.push((path.clone(), 1.0));
    }
    if adapters.is_empty() {
        bail!(
            "there is nothing to compare: give --jola an edit (or --lora an adapter) that \
             changes something, or --every-head"
        );
    }
    let files: Vec<(&Path, f32)> = files.iter().map(|(p, s)| (p.as_path(), *s)).collect();
    let load = load_times(&model, &params, &files)?;
    let report = Report {
        n_prompt: args.n_prompt,
        n_gen: args.n_gen,
        parallel: args.parallel,
        pairs: args.repetitions,
        edited_layers: adapters.edits.layers.len(),
        loras: adapters.loras.len(),
        load,
        routes: args.measure(&model, &params, &adapters)?,
    };
    if args.json {
        print_json(&report)?;
    } else {
        print(|out| report.write(out))?;
    }
    Ok(())
}

impl BenchArgs {
    fn measure(
        &self,
        model: &Model,
        params: &ContextParams,
        adapters: &Adapters,
    ) -> Result<Vec<Measured>> {
        let edits = &adapters.edits;
        let mut loras = Vec::new();
        if let Some(rank) = self.lora_rank {
            for targets in [LoraTargets::Output, LoraTargets::Attention] {
                loras.push(random_lora(model, edits, rank, targets)?);
            }
        }
        let mut routes = vec![("edited", Route::Adapters(adapters))];
        if self.eval_callback {
            routes.push(("eval_callback", Route::EvalCallback(edits)));
        }
        let names = ["lora_output", "lora_attention"];
        routes.extend(names.into_iter().zip(loras.iter().map(Route::Adapters)));
        let mut routes: Vec<(String, Route)> = routes
            .into_iter()
            .map(|(name, route)| (name.to_owned(), route))
            .collect();
        let counts: Vec<usize> = self.sets.iter().map(|n| *n as usize).collect();
        let sets: Vec<Vec<EditSet>> = counts.iter().map(|n| variants(edits, *n)).collect();
        let named = |what: &str, n: usize| format!("{what}_{n}");
        routes.extend(
            sets.iter()
                .map(|sets| (named("sets", sets.len()), Route::Sets(sets))),
        );
        let mut many = Vec::new();
        if let Some(rank) = self.lora_rank {
            let most = counts.iter().max().copied().unwrap_or(0);
            many = random_loras(model, edits, rank, LoraTargets::Output, most)?;
        }
        if !many.is_empty() {
            let loras = |n: &usize| (named("loras", *n), Route::Loras(&many[..*n]));
            routes.extend(counts.iter().map(loras));
        }
        let bench = BenchParams {
            n_prompt: self.n_prompt,
            n_gen: self.n_gen,
            parallel: self.parallel as usize,
            pairs: self.repetitions,
        };
        let bar = progress::bar(routes.len() * self.repetitions, "bench", "pairs");
        let mut measured = Vec::new();
        for (route, how) in routes {
            let before = measured.len() * self.repetitions;
            let done = |pairs: usize| bar.set_position((before + pairs) as u64);
            let cost = paired(model, params, how, &bench, done)?;
            measured.push(Measured { route, cost });
        }
        bar.finish_and_clear();
        Ok(measured)
    }
}

impl Report {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} layers edited, {} LoRA adapters, {} pairs, {} sequences of {} + {} tokens; \
             loaded in {:.2} ms, attached in {:.2} ms",
            self.edited_layers,
            self.loras,
            self.pairs,
            self.parallel,
            self.n_prompt,
            self.n_gen,
            self.load.read_ms,
            self.load.attach_ms
        )?;
        for Measured { route, cost } in &self.routes {
            for (what, ratio) in [("prefill", &cost.prefill), ("decode", &cost.decode)] {
                let Ratio {
                    unedited_tokens_per_s,
                    tokens_per_s,
                    time_ratio,
                    quartiles: [low, high],
                } = ratio;
                writeln!(
                    out,
                    "{route:<14} {what:<7} {tokens_per_s:>8.1} tokens/s, unedited \
                     {unedited_tokens_per_s:>8.1}, time ratio {time_ratio:.4} (quartiles \
                     {low:.4} to {high:.4})"
                )?;
            }
        }
        Ok(())
    }
}
