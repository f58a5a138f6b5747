//! What a run will take, worked out before it begins: for `--dry-run`.

use std::fmt;

use tch::Device;

use crate::base::Base;
use crate::batch::{Batch, Sequence};
use crate::config::Config;
use crate::dataset::Sampler;
use crate::model::Precision;
use crate::schedule::Plan;
use crate::train::VALIDATION_TOKENS;

/// What the process holds besides the model and its data: libtorch, llama.cpp and the
/// tokenizer. Measured on the tests' small model, whose own tensors are below 1 MB.
const RUNTIME_BYTES: u64 = 220 << 20;

/// Sizes of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Rows to train on and to validate with.
    pub rows: [usize; 2],
    /// Tokens of one epoch.
    pub epoch_tokens: usize,
    /// Tokens of the longest row.
    pub longest: usize,
    /// Steps of each phase.
    pub plan: Plan,
    /// Tokens that all steps work on.
    pub tokens: usize,
    /// The batch that needs most memory.
    pub largest: BatchSize,
    /// Numbers that are trained, the gates among them.
    pub trainable: usize,
    /// Gates.
    pub gates: usize,
    /// Memory.
    pub memory: Memory,
}

/// Size of a packed batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSize {
    /// T, tokens that are computed: what all sequences begin with counts once.
    pub tokens: usize,
    /// Tokens of all sequences.
    pub context: usize,
    /// R, tokens that the loss is on.
    pub targets: usize,
}

impl BatchSize {
    /// Of these sequences together.
    pub fn of<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> BatchSize {
        let batch = Batch::pack(sequences, Device::Cpu);
        BatchSize {
            tokens: batch.tokens.numel(),
            context: batch.n_tokens(),
            targets: batch.n_rows(),
        }
    }
}

/// Bytes at the peak of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// libtorch and the rest of the program, and the base model's file as it is mapped.
    pub program: u64,
    /// Frozen weights.
    pub weights: u64,
    /// What the backward pass of the largest batch needs, or the logits of a validation.
    pub activations: u64,
    /// Trained numbers with gradients, moments and copies.
    pub training: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.program + self.weights + self.activations + self.training
    }
}

/// What a run on these rows will take that trains so many numbers, `gates` of them gates.
pub fn estimate(
    base: &dyn Base,
    config: &Config,
    precision: Precision,
    [train, valid]: [&[Sequence]; 2],
    sampler: Sampler,
    plan: Plan,
    [trainable, gates]: [usize; 2],
) -> Estimate {
    let (mut tokens, mut largest, mut most) = (0, BatchSize::default(), 0);
    for step in 0..plan.steps() {
        let rows = sampler.rows(step);
        let size = BatchSize::of(rows.iter().map(|&row| &train[row]));
        tokens += size.context;
        let bytes = backward_bytes(config, precision, size);
        if bytes > most {
            (most, largest) = (bytes, size);
        }
    }
    let math = bytes_of(precision.math);
    let tensors = base
        .tensor_names()
        .into_iter()
        .filter_map(|name| base.tensor(name));
    let (mut numbers, mut stored) = (0, 0);
    for tensor in tensors {
        numbers += tensor.dims.iter().product::<u64>();
        stored += tensor
            .parts
            .iter()
            .map(|part| part.bytes.len() as u64)
            .sum::<u64>();
    }
    Estimate {
        rows: [train.len(), valid.len()],
        epoch_tokens: train.iter().map(|row| row.tokens.len() - 1).sum(),
        longest: train
            .iter()
            .chain(valid)
            .map(|row| row.tokens.len())
            .max()
            .unwrap_or(0),
        plan,
        tokens,
        largest,
        trainable,
        gates,
        memory: Memory {
            program: RUNTIME_BYTES + stored,
            weights: numbers * bytes_of(precision.storage),
            activations: most.max(validation_bytes(config, precision, valid)),
            // Value, gradient, two moments, the best, and the products of one step.
            training: 6 * trainable as u64 * math,
        },
    }
}

/// What the forward pass of a batch leaves for the backward pass, and the gradient of the
/// logits, where both meet.
fn backward_bytes(config: &Config, precision: Precision, size: BatchSize) -> u64 {
    let (storage, math) = (bytes_of(precision.storage), bytes_of(precision.math));
    let count = |n: usize| n as u64;
    let heads = count(config.n_head * config.head_dim);
    let kv = count(config.n_head_kv * config.head_dim);
    let norms = 2 * count(config.n_embd) * math; // what each norm reads
    let queries = heads * math;
    let keys_values = 2 * kv * math;
    let outputs = 2 * heads * math; // head outputs, and as the edit reads them
    let used = config.experts.map_or(1, |experts| count(experts.used));
    let ffn = used * 3 * count(config.n_ff) * storage; // gate, its activation, up
    let per_token = norms + queries + outputs + ffn;
    let layer = count(size.tokens) * per_token + count(size.context) * keys_values;
    let layers = count(config.n_layer) * layer;
    // Logits, their log-softmax and the gradient of each.
    layers + 4 * count(size.targets) * count(config.n_vocab) * math
}

/// The logits of the largest validation batch, their log-softmax and what is compared.
fn validation_bytes(config: &Config, precision: Precision, valid: &[Sequence]) -> u64 {
    let mut rest = valid;
    let mut most = 0;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(crate::train::fitting(rest, VALIDATION_TOKENS));
        most = most.max(BatchSize::of(now).targets);
        rest = later;
    }
    2 * most as u64 * config.n_vocab as u64 * bytes_of(precision.math)
}

fn bytes_of(kind: tch::Kind) -> u64 {
    kind.elt_size_in_bytes() as u64
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [train, valid] = self.rows;
        let Plan {
            learn,
            prune,
            polish,
        } = self.plan;
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        writeln!(
            f,
            "rows       {train} to train on, {valid} to validate; the longest has {} tokens",
            self.longest
        )?;
        writeln!(
            f,
            "tokens     {} per epoch, {} in all steps",
            self.epoch_tokens, self.tokens
        )?;
        writeln!(
            f,
            "steps      {}: learn {learn}, prune {prune}, polish {polish}",
            self.plan.steps()
        )?;
        writeln!(
            f,
            "trainable  {} numbers, {} of them gates",
            self.trainable, self.gates
        )?;
        let Memory {
            program,
            weights,
            activations,
            training,
        } = self.memory;
        write!(
            f,
            "memory     {:.2} GiB at the peak: weights {:.2}, activations {:.2} (a batch of {} tokens, {} of them answers), training {:.2}, program and mapped file {:.2}",
            gib(self.memory.total()),
            gib(weights),
            gib(activations),
            self.largest.tokens,
            self.largest.targets,
            gib(training),
            gib(program),
        )
    }
}
