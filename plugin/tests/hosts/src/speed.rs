//! What edits in every layer cost: the same prebuilt llama-server without the plugin, with the
//! plugin and no edits, and with edits; and the instructions that llama-bench executes.
//!
//! The servers run side by side and are asked in turns, a fraction of a second each: what else
//! the machine does meets them all alike. Two of them have no plugin: how they differ shows how
//! far the measurement can be trusted. One start of a process can be some per cent faster than
//! the next, for where its memory happens to lie, so all are started several times.

use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use llama_jola::stats::quantile;
use serde_json::json;

use crate::backend::Backend;
use crate::client::Client;
<<<<<<< HEAD
use crate::hosts::{Build, Preload};
=======
use crate::hosts::{Backend, Build};
>>>>>>> wt-lora
use crate::lab::Lab;
use crate::preload::Preload;

/// Tokens of a prompt.
const PREFILL: usize = 32;
/// Tokens of an answer.
const DECODE: usize = 4;
/// The threads of the server that was asked before have gone to sleep by then.
const PAUSE: Duration = Duration::from_millis(20);
/// Median of the starts' median ratios that the plugin may cost.
const LIMIT: f64 = 1.01;

/// Starts the servers `starts` times, asks each `rounds` times, and says whether the plugin
/// costs less than [`LIMIT`].
pub fn run(lab: &Lab, starts: usize, rounds: usize, threads: usize) -> Result<bool> {
    ensure!(
        starts >= 1 && rounds >= 10,
        "at least one start and 10 rounds"
    );
    let build = lab.builds.first().context("a build")?;
    let kinds = [
        ("no plugin", lab.bare()),
        ("no plugin again", lab.bare()),
        ("plugin, no edits", lab.unset()),
        ("plugin, edits", lab.with_edits()),
    ];
    println!(
        "{}, -t {threads}: prompts of {PREFILL} tokens, answers of {DECODE}, {} layers edited; \
         {starts} starts of {rounds} rounds",
        build.name,
        lab.sidecar.layers.len()
    );
    // For each kind and part, one median ratio per start.
    let mut medians = vec![[Vec::new(), Vec::new()]; kinds.len()];
    for first in 0..starts {
        let ratios = one_start(lab, build, &kinds, first, rounds, threads)?;
        for (medians, ratios) in medians.iter_mut().zip(ratios) {
            for (medians, ratios) in medians.iter_mut().zip(ratios) {
                medians.push(quantile(ratios, 0.5));
            }
        }
    }
    let (mut passed, mut failed) = (0, 0);
    for (part, what) in ["prefill", "decode"].iter().enumerate() {
        for ((name, _), medians) in kinds.iter().zip(&medians).skip(1) {
            let [low, ratio, high] = [0.0, 0.5, 1.0].map(|q| quantile(medians[part].clone(), q));
            let verdict = match name.starts_with("plugin") {
                false => "",
                true if low > LIMIT => {
                    failed += 1;
                    ": FAILED"
                }
                true if ratio > LIMIT => ": not decided, more starts are needed",
                true => {
                    passed += 1;
                    ": ok"
                }
            };
            println!(
                "{what}, {name}: median ratio {ratio:.4}, by start {low:.4} to {high:.4}{verdict}"
            );
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// For each of `kinds`, for prefill and decode, the ratios of its times to those without
/// the plugin, one per round. The one at `first`, counted round, is started first: memory
/// is not the same for the first and the last.
fn one_start(
    lab: &Lab,
    build: &Build,
    kinds: &[(&str, Preload)],
    first: usize,
    rounds: usize,
    threads: usize,
) -> Result<Vec<[Vec<f64>; 2]>> {
    let threads = threads.to_string();
    let args = ["-t", &threads, "-tb", &threads, "-cram", "0"];
    let mut hosts = Vec::with_capacity(kinds.len());
    for i in 0..kinds.len() {
        let which = (first + i) % kinds.len();
        let (_, preload) = &kinds[which];
        let host = build.start(Backend::Cpu, &lab.model_path, preload, &args, &lab.log())?;
        hosts.push((which, host));
    }
    hosts.sort_by_key(|(which, _)| *which);
    let clients = hosts
        .iter()
        .map(|(_, host)| host.client())
        .collect::<Result<Vec<_>>>()?;
    let prompt = lab.prompts.concat();
    ensure!(prompt.len() > PREFILL, "the example prompts are too short");
    let mut ratios = vec![[Vec::new(), Vec::new()]; kinds.len()];
    for round in 0..=rounds {
        let start = round % (prompt.len() - PREFILL);
        let prompt = &prompt[start..start + PREFILL];
        let mut times = vec![[0.0; 2]; clients.len()];
        for i in 0..clients.len() {
            // Who goes first, and who comes after whom, changes from round to round.
            let back = round / clients.len() % 2 == 1;
            let i = if back { clients.len() - 1 - i } else { i };
            let which = (round + i) % clients.len();
            std::thread::sleep(PAUSE);
            times[which] = ask(&clients[which], prompt)?;
        }
        if round == 0 {
            continue; // files are read and the CPU is awake afterwards
        }
        for (ratios, kind) in ratios.iter_mut().zip(&times) {
            for (part, ratios) in ratios.iter_mut().enumerate() {
                ratios.push(kind[part] / times[0][part]);
            }
        }
    }
    Ok(ratios)
}

/// Milliseconds per token of the prompt, and of the answer, without the prompt cache.
fn ask(client: &Client, prompt: &[i32]) -> Result<[f64; 2]> {
    let body = json!({
        "prompt": prompt,
        "n_predict": DECODE,
        "temperature": 0,
        "ignore_eos": true,
        "cache_prompt": false,
    });
    let answer = client.post("/completion", &body)?;
    let time = |name: &str| {
        let time = answer["timings"][name].as_f64();
        time.with_context(|| format!("no {name} in {answer}"))
    };
    Ok([
        time("prompt_per_token_ms")?,
        time("predicted_per_token_ms")?,
    ])
}

/// Tokens whose instructions are counted: a repetition of this prefill, and of this decode.
const COUNTED: [(&str, [&str; 4]); 2] = [
    ("prefill of 32 tokens", ["-p", "32", "-n", "0"]),
    ("decode of 8 tokens", ["-p", "0", "-n", "8"]),
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
        .args(["-r", repetitions, "-t", "1", "-ngl", "0", "--no-warmup"]);
    let output = command.output().context("running valgrind")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "valgrind ended with {}:\n{log}",
        output.status
    );
    // "I refs:" or "I   refs:", by version.
    let refs = log.lines().find_map(|line| {
        let (of, refs) = line.split_once(" refs:")?;
        of.trim_end().ends_with(" I").then_some(refs)
    });
    let refs = refs.with_context(|| format!("valgrind counted nothing:\n{log}"))?;
    Ok(refs.trim().replace(',', "").parse()?)
}
