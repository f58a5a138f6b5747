/*!
What edits in every layer cost: llama-bench, the same binary without the plugin, with the
plugin and no edits, and with edits, in turns.
*/

use std::process::Stdio;

use anyhow::{ensure, Context as _, Result};
use serde_json::Value;

use crate::hosts::{Build, Preload};
use crate::lab::Lab;

/// Tokens of a prefill run.
const PREFILL: &str = "256";
/// Tokens of a decode run.
const DECODE: &str = "64";
/// Threads.
const THREADS: &str = "2";
/// Median of the pairs' ratios that edits may cost.
const LIMIT: f64 = 1.01;

/// Nanoseconds per token of one run.
struct Run {
    prefill: f64,
    decode: f64,
}

/// Runs `pairs` pairs of each comparison and says whether edits cost less than [`LIMIT`].
pub fn run(lab: &Lab, pairs: usize) -> Result<bool> {
    ensure!(pairs >= 10, "at least 10 pairs");
    let build = lab
        .builds
        .iter()
        .find(|build| build.name.contains("source"))
        .context("a build")?;
    let (bare, unset, edited) = (lab.bare(), lab.unset(), lab.with_edits());
    println!(
        "llama-bench -p {PREFILL} -n {DECODE} -t {THREADS}, {} layers edited",
        lab.sidecar.layers.len()
    );
    // Files are read and the CPU is awake afterwards.
    bench(lab, build, &bare)?;
    let mut passed = 0;
    let mut failed = 0;
    for (name, other, limit) in [
        // What the measurement itself makes of no difference at all.
        ("no plugin again", &bare, None),
        ("plugin, no edits", &unset, None),
        ("plugin, edits", &edited, Some(LIMIT)),
    ] {
        let mut ratios: [Vec<f64>; 2] = Default::default();
        println!("\n{name} against no plugin, ms per token");
        println!("pair   prefill: without   with   ratio   decode: without    with   ratio");
        for pair in 0..pairs {
            // Which of the two goes first alternates.
            let (a, b) = if pair % 2 == 0 {
                let a = bench(lab, build, &bare)?;
                (a, bench(lab, build, other)?)
            } else {
                let b = bench(lab, build, other)?;
                (bench(lab, build, &bare)?, b)
            };
            let ratio = [b.prefill / a.prefill, b.decode / a.decode];
            println!(
                "{pair:4}   {:16.3}   {:.3}  {:.4}   {:15.3}  {:.3}  {:.4}",
                a.prefill / 1e6,
                b.prefill / 1e6,
                ratio[0],
                a.decode / 1e6,
                b.decode / 1e6,
                ratio[1]
            );
            ratios[0].push(ratio[0]);
            ratios[1].push(ratio[1]);
        }
        for (what, ratios) in ["prefill", "decode"].iter().zip(&mut ratios) {
            ratios.sort_by(f64::total_cmp);
            let median = median(ratios);
            let (low, high) = (ratios[ratios.len() / 4], ratios[ratios.len() * 3 / 4]);
            let verdict = match limit {
                None => "",
                Some(limit) if median <= limit => {
                    passed += 1;
                    ": ok"
                }
                Some(_) => {
                    failed += 1;
                    ": FAILED"
                }
            };
            println!("{name}, {what}: median ratio {median:.4}, quartiles {low:.4} to {high:.4}{verdict}");
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// One run of llama-bench.
fn bench(lab: &Lab, build: &Build, preload: &Preload) -> Result<Run> {
    let mut command = build.program("llama-bench", preload)?;
    command.arg("-m").arg(&lab.model_path);
    command.args([
        "-p", PREFILL, "-n", DECODE, "-r", "1", "-t", THREADS, "-ngl", "0", "-o", "json",
    ]);
    let output = command
        .stderr(Stdio::piped())
        .output()
        .context("running llama-bench")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "llama-bench ended with {}:\n{log}",
        output.status
    );
    let runs: Value =
        serde_json::from_slice(&output.stdout).context("reading llama-bench's JSON")?;
    let of = |prompt: u64| {
        let mut runs = runs.as_array()?.iter();
        let run = runs.find(|run| (run["n_prompt"].as_u64() > Some(0)) == (prompt > 0))?;
        let tokens = if prompt > 0 {
            &run["n_prompt"]
        } else {
            &run["n_gen"]
        };
        Some(run["avg_ns"].as_f64()? / tokens.as_f64()?)
    };
    Ok(Run {
        prefill: of(1).context("no prefill run")?,
        decode: of(0).context("no decode run")?,
    })
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}
