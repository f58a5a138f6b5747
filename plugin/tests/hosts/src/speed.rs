/*!
What edits in every layer cost: llama-bench, the same binary without the plugin, with the
plugin and no edits, and with edits, in turns; and the instructions that each executes.
*/

use std::process::{Command, Stdio};

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

/// Runs `pairs` pairs of each comparison whose name contains `filter` and says whether edits
/// cost less than [`LIMIT`].
pub fn run(lab: &Lab, pairs: usize, filter: &str) -> Result<bool> {
    ensure!(pairs >= 10, "at least 10 pairs");
    let build = &lab.programs;
    let (bare, unset, edited) = (lab.bare(), lab.unset(), lab.with_edits());
    let comparisons = [
        // What the measurement itself makes of no difference at all.
        ("no plugin again", &bare, None),
        ("plugin, no edits", &unset, Some(LIMIT)),
        ("plugin, edits", &edited, Some(LIMIT)),
    ];
    let chosen = comparisons
        .iter()
        .filter(|(name, ..)| name.contains(filter));
    ensure!(
        chosen.clone().count() > 0,
        "no comparison is called {filter}"
    );
    println!(
        "llama-bench -p {PREFILL} -n {DECODE} -t {THREADS}, {} layers edited",
        lab.sidecar.layers.len()
    );
    // Files are read and the CPU is awake afterwards.
    bench(lab, build, &bare)?;
    let mut passed = 0;
    let mut failed = 0;
    for (name, other, limit) in chosen {
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
                Some(limit) if median <= *limit => {
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

/// Tokens whose instructions are counted: a repetition of this prefill, and of this decode.
const COUNTED: [(&str, [&str; 4]); 2] = [
    ("prefill of 64 tokens", ["-p", "64", "-n", "0"]),
    ("decode of 16 tokens", ["-p", "0", "-n", "16"]),
];

/// Counts instructions without the plugin, with the plugin and no edits, and with edits, and
/// says whether edits cost less than [`LIMIT`]. Valgrind counts them, so that neither the
/// machine's load nor a missing performance counter matters; threads that wait would count.
pub fn instructions(lab: &Lab) -> Result<bool> {
    let build = &lab.programs;
    let layers = lab.sidecar.layers.len();
    println!("instructions of llama-bench -t 1, counted by valgrind, {layers} layers edited");
    let mut passed = true;
    for (what, tokens) in COUNTED {
        let mut base = None;
        for (name, preload) in [
            ("no plugin", lab.bare()),
            ("plugin, no edits", lab.unset()),
            ("plugin, edits", lab.with_edits()),
        ] {
            let once = count(lab, build, &preload, &tokens, "1")?;
            let twice = count(lab, build, &preload, &tokens, "2")?;
            let one = twice.checked_sub(once).context("fewer instructions")?;
            let ratio = one as f64 / *base.get_or_insert(one) as f64;
            passed &= ratio <= LIMIT;
            println!("{what}, {name}: {one} ({twice} - {once}), ratio {ratio:.5}");
        }
    }
    println!("{} passed, {} failed", u8::from(passed), u8::from(!passed));
    Ok(passed)
}

/// Instructions of llama-bench with so many repetitions; their difference is that of one,
/// without loading the model.
fn count(
    lab: &Lab,
    build: &Build,
    preload: &Preload,
    tokens: &[&str],
    repetitions: &str,
) -> Result<u64> {
    let bench = build.program("llama-bench", preload)?;
    let mut command = Command::new("valgrind");
    for (name, value) in bench.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .args(["--tool=cachegrind", "--cache-sim=no"])
        .args(["--cachegrind-out-file=/dev/null", "--"])
        .arg(bench.get_program())
        .arg("-m")
        .arg(&lab.model_path)
        .args(tokens)
        .args(["-r", repetitions, "-t", "1", "-ngl", "0"]);
    let output = command.output().context("running valgrind")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "valgrind ended with {}:\n{log}",
        output.status
    );
    let refs = log
        .lines()
        .find_map(|line| line.split_once("I refs:"))
        .with_context(|| format!("valgrind counted nothing:\n{log}"))?;
    Ok(refs.1.trim().replace(',', "").parse()?)
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
