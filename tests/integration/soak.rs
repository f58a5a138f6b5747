//! Many requests with random sets of edits to the example server: every answer is the one that
//! its edits give alone, and memory does not grow. `make soak-server`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use llama_jola::{Batch, Context, ContextParams, Model, ModelParams, Sidecar, Token};
use serde_json::{json, Value};
use testkit::{sidecars, Folder, Random};

use crate::base::f32_base;
use crate::server::Server;

/// Requests under way: as many as the server computes at once, and some that wait.
const CLIENTS: usize = 40;
const SIDECARS: usize = 16;
/// Edits that requests choose from: none, one, or several composed.
const SETS: usize = 64;
const STRENGTHS: [f32; 6] = [1.0, 0.5, -0.5, 0.75, 0.25, -1.0];
/// Tokens of an answer.
const LENGTH: usize = 4;
/// One of so many clients leaves before its answer is there.
const LEAVES: usize = 50;
/// From the first token on that is likelier than the next by less than this, in nats, answers
/// are not compared: other batches round otherwise.
const MARGIN: f32 = 0.05;
/// Resident memory may grow by this much in the second half.
const GROWTH_KIB: i64 = 16 * 1024;
/// Lines of the report on memory.
const SAMPLES: usize = 20;
/// Of one beginning, and others.
const PROMPTS: [&str; 8] = [
    "The ferry to the island leaves at",
    "The ferry to the island leaves at nine, and the last",
    "The ferry to the mainland",
    "Message: where is my parcel?\nTeam:",
    "Message: I was billed twice.\nTeam:",
    "Once upon a time",
    "2, 4, 6, 8,",
    "def add(a, b):",
];

/// What is certain of an answer.
struct Expected {
    /// Its text, as far as no choice is a close one.
    text: String,
    /// Whether that is all of it.
    whole: bool,
}

impl Expected {
    fn is(&self, answer: &str) -> bool {
        match self.whole {
            true => answer == self.text,
            false => answer.starts_with(&self.text),
        }
    }
}

/// Edits as a request names them, and their answers to all prompts.
struct Set {
    jola: Value,
    answers: Vec<Expected>,
}

#[test]
#[ignore = "takes a quarter of an hour: make soak-server"]
fn every_request_is_answered_with_its_edits() {
    let requests = std::env::var("JOLA_SOAK_REQUESTS").map_or(10_000, |n| n.parse().unwrap());
    let folder = Folder::new();
    let mut random = Random::new(24);
    let start = Instant::now();
    let sets = sets(&folder, &mut random);
    let compared: usize = sets
        .iter()
        .flat_map(|set| &set.answers)
        .map(|e| e.text.len())
        .sum();
    println!(
        "{SETS} sets of {SIDECARS} sidecars, {} prompts, {LENGTH} tokens each; {:.1} bytes of an \
         answer are certain; computed set by set in {:.0} s",
        PROMPTS.len(),
        compared as f64 / (SETS * PROMPTS.len()) as f64,
        start.elapsed().as_secs_f64()
    );
    let server = Server::start(&folder);
    let start = Instant::now();
    let (sent, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let memory = Mutex::new(vec![(0, server.resident())]);
    let wrong = Mutex::new(Vec::new());
    let ask = |mut random: Random| {
        while sent.fetch_add(1, Ordering::Relaxed) < requests {
            let set = &sets[random.below(SETS)];
            let prompt = random.below(PROMPTS.len());
            let asked = json!({"prompt": PROMPTS[prompt], "max_tokens": LENGTH, "jola": set.jola});
            if random.below(LEAVES) == 0 {
                drop(server.send("/v1/completions", &asked));
            } else {
                let (status, body) = server.post("/v1/completions", &asked);
                let answer: Value = serde_json::from_str(&body).unwrap_or_default();
                let text = answer["choices"][0]["text"].as_str();
                if status != 200 || !text.is_some_and(|text| set.answers[prompt].is(text)) {
                    let expected = &set.answers[prompt].text;
                    let said = format!("{asked}: {status} {body}, expected {expected:?}");
                    wrong.lock().unwrap().push(said);
                }
            }
            let done = answered.fetch_add(1, Ordering::Relaxed) + 1;
            if done % requests.div_ceil(SAMPLES) == 0 || done == requests {
                memory.lock().unwrap().push((done, server.resident()));
            }
        }
    };
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (ask, random) = (&ask, Random::new(random.bits() ^ client as u64));
            scope.spawn(move || ask(random));
        }
    });
    let (mut memory, wrong) = (memory.into_inner().unwrap(), wrong.into_inner().unwrap());
    memory.sort_unstable();
    println!("\nrequests   resident KiB");
    memory
        .iter()
        .for_each(|(done, kib)| println!("{done:8}   {kib:12}"));
    wrong
        .iter()
        .take(20)
        .for_each(|said| println!("wrong: {said}"));
    let (half, end) = (memory[memory.len() / 2], memory[memory.len() - 1]);
    let growth = end.1 - half.1;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "\n{requests} requests of {CLIENTS} clients in {seconds:.0} s: {} wrong answers; resident \
         memory {growth:+} KiB from request {} on (limit +{GROWTH_KIB})",
        wrong.len(),
        half.0
    );
    assert!(wrong.is_empty() && growth <= GROWTH_KIB);
}

/// Random sets, with what the library answers when all sequences have them.
fn sets(folder: &Folder, random: &mut Random) -> Vec<Set> {
    let files: Vec<(String, PathBuf)> = (0..SIDECARS)
        .map(|i| {
            let (name, path) = (format!("e{i}"), folder.path(&format!("e{i}.gguf")));
            let edit = sidecars::every_head(100 + i as u64, 0.3, 0.02);
            edit.write(&path).unwrap();
            (name, path)
        })
        .collect();
    let read = |(_, path): &(String, PathBuf)| Sidecar::read(path).unwrap();
    let edits: Vec<Sidecar> = files.iter().map(read).collect();
    let model = Model::load(f32_base(), &ModelParams::default()).unwrap();
    let params = ContextParams {
        n_ctx: 64,
        n_seq_max: PROMPTS.len() as u32,
        ..ContextParams::default()
    };
    let mut context = Context::new(&model, &params).unwrap();
    let mut sets = Vec::new();
    let mut different = BTreeSet::new();
    for i in 0..SETS {
        let n = if i <= SIDECARS {
            i.min(1)
        } else {
            1 + random.below(3)
        };
        let chosen: Vec<(usize, f32)> = (0..n)
            .map(|_| match i <= SIDECARS {
                true => (i - 1, 1.0),
                false => (
                    random.below(SIDECARS),
                    STRENGTHS[random.below(STRENGTHS.len())],
                ),
            })
            .collect();
        let jola = match chosen[..] {
            [] => json!(null),
            [(which, 1.0)] if i <= SIDECARS => json!(files[which].0),
            _ => chosen
                .iter()
                .map(|(which, scale)| json!({"id": files[*which].0, "scale": scale}))
                .collect(),
        };
        let pairs: Vec<_> = chosen
            .iter()
            .map(|(which, s)| (&edits[*which], *s))
            .collect();
        context.set_edits(&model.compose(&pairs).unwrap()).unwrap();
        let answers = expected(&mut context);
        different.insert(
            answers
                .iter()
                .map(|answer| answer.text.clone())
                .collect::<Vec<_>>(),
        );
        sets.push(Set { jola, answers });
    }
    assert!(
        different.len() > SETS / 2,
        "{} different sets",
        different.len()
    );
    sets
}

/// The likeliest tokens behind every prompt, each up to the first close choice, under the edits
/// that all sequences of the context have.
fn expected(context: &mut Context) -> Vec<Expected> {
    let model = context.model().clone();
    let mut tokens = PROMPTS.map(|prompt| model.tokenize_prompt(prompt).unwrap());
    let n_prompt = tokens.each_ref().map(Vec::len);
    let mut held = [0; PROMPTS.len()];
    let mut close = [false; PROMPTS.len()];
    let mut ended = [false; PROMPTS.len()];
    context.clear();
    for _ in 0..LENGTH {
        let mut batch = Batch::new();
        let mut outputs = Vec::new();
        for (sequence, tokens) in tokens.iter().enumerate() {
            if close[sequence] || ended[sequence] {
                continue;
            }
            for position in held[sequence]..tokens.len() {
                let output = position + 1 == tokens.len();
                batch.push(tokens[position], position, sequence, output);
            }
            held[sequence] = tokens.len();
            outputs.push((sequence, batch.len() - 1));
        }
        if batch.is_empty() {
            break;
        }
        context.decode(&batch).unwrap();
        for (sequence, index) in outputs {
            let logits = context.logits(index as i32);
            let best = testkit::logits::argmax(logits);
            let others = logits.iter().enumerate().filter(|(i, _)| *i != best);
            let second = others.map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
            close[sequence] = logits[best] - second < MARGIN;
            ended[sequence] = model.is_eog(best as Token);
            if !close[sequence] && !ended[sequence] {
                tokens[sequence].push(best as Token);
            }
        }
    }
    let answers = tokens.iter().zip(n_prompt).zip(close);
    answers
        .map(|((tokens, n_prompt), close)| {
            let text = model.detokenize(&tokens[n_prompt..]).unwrap();
            Expected {
                // A character that is only begun is none yet.
                text: text.trim_end_matches('\u{fffd}').to_owned(),
                whole: !close,
            }
        })
        .collect()
}
