//! Many requests with random adapters to one llama-server that uses everything that it has for
//! caching: every answer is that of a fresh process with just those adapters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{json, Value};
use testkit::Random;

use crate::backend::Backend;
use crate::client::{Client, Completion, Request};
use crate::fixtures;
use crate::hosts::{Build, Host};
use crate::lab::Lab;
use crate::preload::Preload;
use crate::soak::{at_once, lock, resident};

/// Slots of the server, and requests under way at most times.
const SLOTS: usize = 8;
/// Sidecars that are loaded, beside one LoRA.
const SIDECARS: usize = 4;
/// All of them.
const ADAPTERS: usize = SIDECARS + 1;
/// Choices of adapters with strengths.
const SETS: usize = 12;
/// Strengths to choose from; two of three adapters are off.
const STRENGTHS: [f32; 6] = [1.0, 0.5, -0.5, 0.25, -1.0, 0.75];
/// Tokens per answer.
const REQUEST: Request = Request {
    n_predict: 12,
    n_probs: 2,
    cache_prompt: true,
};
/// Tokens of a slot's context. The longest prompt leaves fewer than an answer's, so that it is
/// shifted.
const CONTEXT: usize = 256;
/// Prompts: beginnings of one text, so that they share what is cached, and others.
const PROMPT_TOKENS: [usize; 4] = [12, 20, 28, 40];
/// Requests between two pauses, in which one asks alone.
const ROUND: usize = 40;
/// Of these requests every one gets the long prompt.
const LONG_EVERY: usize = 20;
/// From the first token on that is likelier than the next by less than this, in nats, answers
/// are not compared: other batches round otherwise.
const MARGIN: f64 = 0.05;
/// Resident memory may grow by this much in the second half.
const GROWTH_KIB: i64 = 16 * 1024;

type Set = [f32; ADAPTERS];

/// What is asked, and the answers of fresh processes.
struct Truth {
    sets: Vec<Set>,
    prompts: Vec<Vec<i32>>,
    answers: BTreeMap<(usize, usize), Completion>,
}

impl Truth {
    /// Whether an answer is the expected one, as far as rounding lets tell; with the number of
    /// tokens compared.
    fn check(&self, set: usize, prompt: usize, found: &Completion) -> Result<usize, String> {
        let expected = &self.answers[&(set, prompt)];
        for (place, (token, top)) in expected.tokens.iter().zip(&expected.top).enumerate() {
            if let [(_, first), (_, second), ..] = top[..] {
                if first - second < MARGIN {
                    return Ok(place);
                }
            }
            if found.tokens.get(place) != Some(token) {
                return Err(format!(
                    "set {set} {:?}, prompt {prompt}: {:?} in place of {:?}",
                    self.sets[set], found.tokens, expected.tokens
                ));
            }
        }
        Ok(expected.tokens.len())
    }
}

/// Runs `requests` requests to the first server whose name contains `name`, and says whether
/// answers and memory held.
pub fn run(lab: &Lab, name: &str, requests: usize, seed: u64) -> Result<bool> {
    let mut servers = lab.builds.iter().filter(|build| build.is_server());
    let build = servers.find(|build| build.name.contains(name));
    let build = build.with_context(|| format!("no server is called {name:?}"))?;
    let base = lab.f32_copy()?;
    let files = files(lab)?;
    let mut random = Random::new(seed);
    let start = Instant::now();
    let truth = truth(lab, build, &base, &files, &mut random)?;
    println!(
        "{}: {requests} requests, seed {seed}, {SLOTS} slots, {SIDECARS} sidecars and a LoRA; answers \
         of {} fresh processes to {} prompts in {:.0} s",
        build.name,
        truth.sets.len(),
        truth.prompts.len(),
        start.elapsed().as_secs_f64()
    );
    let host = serve(lab, build, &base, &files, SLOTS)?;
    let start = Instant::now();
    let load = Load {
        client: host.client()?,
        truth,
        random: Mutex::new(random),
        tokens: AtomicUsize::new(0),
        cached: AtomicUsize::new(0),
        wrong: Mutex::default(),
    };
    let mut memory = vec![(0, resident(host.id())?)];
    let mut done = 0;
    while done < requests {
        done += load.round((requests - done).min(ROUND))?;
        memory.push((done, resident(host.id())?));
    }
    println!("\nrequests   resident KiB");
    for (count, kib) in memory.iter().step_by(memory.len().div_ceil(16)) {
        println!("{count:8}   {kib:12}");
    }
    let half = memory[memory.len() / 2].1;
    let end = memory[memory.len() - 1].1;
    let growth = end as i64 - half as i64;
    let wrong = lock(&load.wrong).clone();
    for text in wrong.iter().take(20) {
        println!("wrong: {text}");
    }
    let log = host.output();
    let renewed = log.matches("computed anew\n").count();
    let mut switches: Vec<u64> = log
        .lines()
        .filter_map(|line| {
            let (_, line) = line.split_once("llama-jola: adapters set in ")?;
            line.split_once(' ')?.0.parse().ok()
        })
        .collect();
    switches.sort_unstable();
    let at = |share: usize| switches.get(switches.len() * share / 100).copied();
    println!(
        "\n{done} requests in {:.0} s: {} tokens compared, {} prompt tokens from caches, {renewed} \
         sequences computed anew, {} switches of adapters (median {:?} µs, 99 % below {:?} µs); resident \
         memory {half} KiB at half, {end} KiB at the end ({growth:+} KiB, limit +{GROWTH_KIB}); {} wrong \
         answers",
        start.elapsed().as_secs_f64(),
        load.tokens.load(Ordering::Relaxed),
        load.cached.load(Ordering::Relaxed),
        switches.len(),
        at(50).unwrap_or(0),
        at(99).unwrap_or(0),
        wrong.len()
    );
    let passed = wrong.is_empty() && growth <= GROWTH_KIB && renewed > 0;
    println!("{} passed, {} failed", u8::from(passed), u8::from(!passed));
    Ok(passed)
}

/// The adapters' files: sidecars first.
fn files(lab: &Lab) -> Result<Vec<PathBuf>> {
    let folder = lab.folder.path();
    let mut files = Vec::new();
    for number in 0..SIDECARS {
        let path = folder.join(format!("soak-{number}.gguf"));
        fixtures::random_sidecar(lab.model.shape(), 31 + number as u64, 1).write(&path)?;
        files.push(path);
    }
    let lora = folder.join("soak-lora.gguf");
    fixtures::write_lora(lab.model.shape(), 5, &lora)?;
    files.push(lora);
    Ok(files)
}

fn truth(
    lab: &Lab,
    build: &Build,
    base: &Path,
    files: &[PathBuf],
    random: &mut Random,
) -> Result<Truth> {
    let mut sets = vec![[0.0; ADAPTERS]];
    while sets.len() < SETS {
        let mut set = [0.0; ADAPTERS];
        for strength in &mut set {
            if random.below(3) == 0 {
                *strength = STRENGTHS[random.below(STRENGTHS.len())];
            }
        }
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    let long = lab.prompts.last().context("a prompt")?;
    let mut prompts: Vec<Vec<i32>> = PROMPT_TOKENS
        .iter()
        .flat_map(|len| {
            [
                &long[..*len],
                &lab.prompts[0][..(*len).min(lab.prompts[0].len())],
            ]
        })
        .map(<[i32]>::to_vec)
        .collect();
    prompts.dedup();
    let filled = long.iter().cycle().take(CONTEXT - REQUEST.n_predict / 2);
    prompts.push(filled.copied().collect());
    let mut answers = BTreeMap::new();
    for (number, set) in sets.iter().enumerate() {
        let chosen: Vec<(&PathBuf, f32)> = files
            .iter()
            .zip(*set)
            .filter(|(_, strength)| *strength != 0.0)
            .collect();
        let mut args = vec![
            "--context-shift".to_owned(),
            "-c".to_owned(),
            CONTEXT.to_string(),
            "-np".to_owned(),
            "1".to_owned(),
        ];
        for (file, strength) in chosen {
            args.push("--lora-scaled".to_owned());
            args.push(format!("{}:{strength}", file.display()));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let host = build.start(Backend::Cpu, base, &lab.with_adapters(), &args, &lab.log())?;
        for (which, prompt) in prompts.iter().enumerate() {
            let fresh = Request {
                cache_prompt: false,
                ..REQUEST
            };
            answers.insert((number, which), host.complete(prompt, fresh)?);
        }
    }
    Ok(Truth {
        sets,
        prompts,
        answers,
    })
}

/// The server under test: every adapter loaded, none at work.
fn serve(lab: &Lab, build: &Build, base: &Path, files: &[PathBuf], slots: usize) -> Result<Host> {
    let folder = lab.folder.path().display().to_string();
    let (slots, context) = (slots.to_string(), (slots * CONTEXT).to_string());
    let mut args = vec!["--context-shift", "-np", &slots, "-cram", "128", "-no-kvu"];
    args.extend(["-c", &context, "--slot-save-path", &folder]);
    let off: Vec<String> = files
        .iter()
        .map(|file| format!("{}:0", file.display()))
        .collect();
    for file in &off {
        args.extend(["--lora-scaled", file]);
    }
    let preload = Preload {
        log: Some("debug"),
        ..lab.unset()
    };
    build.start(Backend::Cpu, base, &preload, &args, &lab.log())
}

/// What the threads that send requests share.
struct Load {
    client: Client,
    truth: Truth,
    random: Mutex<Random>,
    tokens: AtomicUsize,
    cached: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Sends requests from all sides, then some alone; returns how many.
    fn round(&self, count: usize) -> Result<usize> {
        let alone = count / 4;
        let left = AtomicUsize::new(count - alone);
        let taken =
            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        at_once(SLOTS, || {
            while taken().is_ok() {
                let (set, prompt) = self.draw();
                let scales = &self.truth.sets[set];
                let prompt_tokens = &self.truth.prompts[prompt];
                let answer = self.client.complete_under(prompt_tokens, REQUEST, scales)?;
                self.judge(set, prompt, &answer, "chosen by the request");
            }
            Ok(())
        })?;
        for _ in 0..alone {
            self.alone()?;
        }
        Ok(count)
    }

    /// A request that names no adapters, in a slot with the cache of others.
    fn alone(&self) -> Result<()> {
        let (set, prompt) = self.draw();
        let (slot, saved) = {
            let mut random = lock(&self.random);
            (random.below(SLOTS), random.below(3) == 0)
        };
        self.client.set_adapters(&self.truth.sets[set])?;
        let mut how = "chosen by POST";
        if saved {
            how = "chosen by POST, slot saved and restored";
            let from = lock(&self.random).below(SLOTS);
            let file = json!({"filename": "soak.bin"});
            let post = |slot: usize, action: &str, body: &Value| {
                self.client
                    .post(&format!("/slots/{slot}?action={action}"), body)
            };
            post(from, "save", &file)?;
            post(slot, "restore", &file)?;
        }
        let more = json!({"id_slot": slot});
        let tokens = &self.truth.prompts[prompt];
        let answer = self.client.complete_with(tokens, REQUEST, &more)?;
        self.judge(set, prompt, &answer, how);
        Ok(())
    }

    fn draw(&self) -> (usize, usize) {
        let mut random = lock(&self.random);
        let set = random.below(self.truth.sets.len());
        let long = self.truth.prompts.len() - 1;
        let prompt = match random.below(LONG_EVERY) {
            0 => long,
            _ => random.below(long),
        };
        (set, prompt)
    }

    fn judge(&self, set: usize, prompt: usize, answer: &Completion, how: &str) {
        self.cached
            .fetch_add(answer.cached as usize, Ordering::Relaxed);
        match self.truth.check(set, prompt, answer) {
            Ok(tokens) => _ = self.tokens.fetch_add(tokens, Ordering::Relaxed),
            Err(text) => lock(&self.wrong).push(format!("{how}: {text}")),
        }
    }
}
