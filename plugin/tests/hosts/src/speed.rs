/*!
What edits in every layer cost: the same prebuilt llama-server without the plugin, with the
plugin and no edits, and with edits; and the instructions that llama-bench executes.

The servers run side by side and are asked in turns, a fraction of a second each: what else
the machine does meets them all alike. Two of them have no plugin: their mean is what the
others are compared with, and how they differ shows how far the measurement can be trusted.
*/

use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use serde_json::json;

use crate::client::Client;
use crate::hosts::{Backend, Build, Preload};
use crate::lab::Lab;

/// Tokens of a prompt.
const PREFILL: usize = 32;
/// Tokens of an answer.
const DECODE: usize = 4;
/// The threads of the server that was asked before have gone to sleep by then.
const PAUSE: Duration = Duration::from_millis(20);
/// Median of the rounds' ratios that the plugin may cost.
const LIMIT: f64 = 1.01;

/// Asks each server `rounds` times and says whether the plugin costs less than [`LIMIT`].
pub fn run(lab: &Lab, rounds: usize, threads: usize) -> Result<bool> {
    ensure!(rounds >= 10, "at least 10 rounds");
    let build = lab.builds.first().context("a build")?;
    let threads = threads.to_string();
    let args = ["-t", &threads, "-tb", &threads, "-cram", "0"];
    let kinds = [
        ("no plugin", lab.bare()),
        ("no plugin again", lab.bare()),
        ("plugin, no edits", lab.unset()),
        ("plugin, edits", lab.with_edits()),
    ];
    let mut hosts = Vec::new();
    for (_, preload) in &kinds {
        let log = lab.log();
        hosts.push(build.start(Backend::Cpu, &lab.model_path, preload, &args, &log)?);
    }
    let clients = hosts
        .iter()
        .map(|host| host.client())
        .collect::<Result<Vec<_>>>()?;
    println!(
        "{}, -t {threads}: prompts of {PREFILL} tokens, answers of {DECODE}, {} layers edited, \
         {rounds} rounds",
        build.name,
        lab.sidecar.layers.len()
    );
    let prompt = lab.prompts.concat();
    ensure!(prompt.len() > PREFILL, "the example prompts are too short");
    let mut ratios = vec![[Vec::new(), Vec::new()]; kinds.len()];
    let mut base = [Vec::new(), Vec::new()];
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
        for part in 0..2 {
            let bare = (times[0][part] * times[1][part]).sqrt();
            base[part].push(bare);
            for (ratios, times) in ratios.iter_mut().zip(&times) {
                ratios[part].push(times[part] / bare);
            }
        }
    }
    let mut failed = 0;
    let mut passed = 0;
    for (part, what) in ["prefill", "decode"].iter().enumerate() {
        let time = Spread::of(&mut base[part]);
        println!("{what}, no plugin: median {:.3} ms per token", time.median);
        for ((name, _), ratios) in kinds.iter().zip(&mut ratios) {
            let ratio = Spread::of(&mut ratios[part]);
            let verdict = match name.starts_with("plugin") {
                false => "",
                true if ratio.low > LIMIT => {
                    failed += 1;
                    ": FAILED"
                }
                true if ratio.median > LIMIT => ": not decided, more rounds are needed",
                true => {
                    passed += 1;
                    ": ok"
                }
            };
            println!("{what}, {name}: median ratio {ratio}{verdict}");
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// A median, and where the true one lies with 95 % confidence.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    /// Of at least 10 values, without an assumption about how they are distributed: the
    /// number of values below the true median is binomial.
    fn of(values: &mut [f64]) -> Self {
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        let margin = 1.96 * n.sqrt() / 2.0;
        let at = |rank: f64| values[rank.round().clamp(0.0, n - 1.0) as usize];
        Self {
            low: at(n / 2.0 - margin - 0.5),
            median: at((n - 1.0) / 2.0),
            high: at(n / 2.0 + margin - 0.5),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.4} ({:.4} to {:.4})",
            self.median, self.low, self.high
        )
    }
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
