//! Many requests to one llama-server with edits loaded: its memory stays flat after warm-up,
//! and no answer ever differs from the first answer to the same prompt.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{ensure, Context as _, Result};
use llama_jola::Model;

use crate::backend::Backend;
use crate::client::{Client, Completion, Request};
use crate::fixtures;
use crate::lab::Lab;
use crate::reference::Reference;

/// Slots of the server, and requests under way at any time.
const SLOTS: usize = 8;
/// Requests are short, so that many fit into an hour: tokens of a prompt.
const PROMPT_TOKENS: usize = 8;
/// Tokens per answer.
const REQUEST: Request = Request {
    n_predict: 2,
    n_probs: 0,
    cache_prompt: true,
};
/// Example rows to take prompts from.
const EXAMPLES: usize = 100;
/// Different prompts, at most.
const PROMPTS: usize = 24;
/// Requests after which memory counts as warm.
const WARM: usize = 1000;
/// How much likelier the first choice must be than the second, in nats, at each token of a
/// prompt's answer. Rounding depends on what else is in the batch and moves
/// log-probabilities by up to about 0.2; closer calls could flip without being wrong.
const MARGIN: f64 = 1.0;
/// Resident memory may grow by this much after warm-up. A leak of 1 KiB per request would
/// show as 9 MiB; the allocator's own drift is below this.
const GROWTH_KIB: u64 = 4096;

/// Runs `requests` requests and says whether memory and answers held.
pub fn run(lab: &Lab, requests: usize) -> Result<bool> {
    ensure!(requests > WARM, "at least {} requests", WARM + 1);
    let build = lab.builds.first().context("a build")?;
    let prompts = sure_prompts(&lab.model, &mut lab.edited.borrow_mut())?;
    // Without the server's own store of earlier prompts, memory is the context's and the
    // plugin's alone.
    let slots = SLOTS.to_string();
    let args = ["-np", slots.as_str(), "-cram", "0", "-no-kvu"];
    let host = build.start(
        Backend::Cpu,
        &lab.model_path,
        &lab.with_edits(),
        &args,
        &lab.log(),
    )?;
    let client = host.client()?;

    let first: Vec<Completion> = prompts
        .iter()
        .map(|prompt| {
            client.complete(
                prompt,
                Request {
                    n_probs: 5,
                    ..REQUEST
                },
            )
        })
        .collect::<Result<_>>()?;
    let agreement = lab.edited.borrow_mut().compare(&prompts, &first)?;
    agreement.ensure_same()?;
    println!(
        "{}: {requests} requests, {SLOTS} at a time, {} prompts",
        build.name,
        prompts.len()
    );
    println!("first answers against llama-jola: {agreement}");

    let start = Instant::now();
    let load = Load {
        client,
        id: host.id(),
        requests,
        prompts,
        first,
        done: AtomicUsize::new(0),
        memory: Mutex::new(vec![(0, resident(host.id())?)]),
        wrong: Mutex::default(),
    };
    at_once(SLOTS, || load.work())?;
    let seconds = start.elapsed().as_secs_f64();

    let (mut memory, wrong) = (lock(&load.memory).clone(), lock(&load.wrong).clone());
    memory.push((requests, resident(host.id())?));
    memory.sort_unstable();
    println!("\nrequests   resident KiB");
    for (count, kib) in &memory {
        println!("{count:8}   {kib:12}");
    }
    let warm = memory
        .iter()
        .find(|(count, _)| *count >= WARM)
        .context("warm")?
        .1;
    let end = memory.last().context("end")?.1;
    for text in wrong.iter().take(10) {
        println!("wrong: {text}");
    }
    let growth = end as i64 - warm as i64;
    println!(
        "\n{requests} requests in {seconds:.0} s; resident memory {warm} KiB after {WARM}, {end} KiB \
         at the end ({growth:+} KiB, limit +{GROWTH_KIB}); {} wrong answers",
        wrong.len()
    );
    let passed = growth <= GROWTH_KIB as i64 && wrong.is_empty();
    println!("{} passed, {} failed", u8::from(passed), u8::from(!passed));
    Ok(passed)
}

/// What the threads that send requests share.
struct Load {
    client: Client,
    /// The server's process.
    id: u32,
    requests: usize,
    prompts: Vec<Vec<i32>>,
    first: Vec<Completion>,
    done: AtomicUsize,
    /// Requests so far, and resident memory in KiB.
    memory: Mutex<Vec<(usize, u64)>>,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Sends requests until enough are sent.
    fn work(&self) -> Result<()> {
        loop {
            let count = self.done.fetch_add(1, Ordering::Relaxed);
            if count >= self.requests {
                return Ok(());
            }
            // Another rhythm than the slots', so that slots change their prompts.
            let which = (count * 7 + count / 5) % self.prompts.len();
            let answer = self.client.complete(&self.prompts[which], REQUEST)?;
            let first = &self.first[which].tokens;
            if answer.tokens != *first {
                let text = format!(
                    "request {count}, prompt {which}: {:?} after {first:?}",
                    answer.tokens
                );
                lock(&self.wrong).push(text);
            }
            if count.is_multiple_of(500) && count > 0 {
                let kib = resident(self.id)?;
                lock(&self.memory).push((count, kib));
            }
        }
    }
}

/// Does `work` in as many threads at once, until all are done.
pub fn at_once(threads: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}

/// The value, also if a thread panicked while it held the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Beginnings of the example prompts whose answers are no close calls.
fn sure_prompts(model: &Model, reference: &mut Reference) -> Result<Vec<Vec<i32>>> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples/routing");
    let mut prompts: Vec<Vec<i32>> = Vec::new();
    for text in fixtures::prompts(&examples, EXAMPLES, 0)? {
        let mut tokens = model.tokenize_prompt(&text)?;
        tokens.truncate(PROMPT_TOKENS);
        if !prompts.contains(&tokens) && reference.margin(&tokens, REQUEST.n_predict)? >= MARGIN {
            prompts.push(tokens);
        }
    }
    prompts.truncate(PROMPTS);
    ensure!(
        prompts.len() >= SLOTS,
        "only {} prompts have sure answers",
        prompts.len()
    );
    Ok(prompts)
}

/// Resident memory of a process, in KiB.
pub fn resident(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}
