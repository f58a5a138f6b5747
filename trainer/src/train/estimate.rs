//! What a run will take, worked out before it begins: for `--dry-run`.

use std::fmt;

use super::memory::{Activations, Memory};
use super::rate_search::trial_steps;
use super::schedule::Plan;
use super::settings::{Rate, Settings};
use crate::base::Base;
use crate::method::Sizes;
use crate::model::{bytes_of, BatchSize, Config, Precision, Sequence};
use crate::Error;

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
    /// Steps of a trial, where the learning rate is to be found.
    pub trial_steps: Option<usize>,
    /// Tokens that all steps work on.
    pub tokens: usize,
    /// The batch that needs most memory.
    pub largest: BatchSize,
    /// Numbers that are trained, and gates among them.
    pub sizes: Sizes,
    /// Where the memory goes at the peak.
    pub memory: Memory,
    /// Layers that are recomputed in the backward pass.
    pub recomputed: usize,
}

/// What a run on these rows will take that trains so much.
pub fn estimate(
    base: &dyn Base,
    config: &Config,
    precision: Precision,
    [train, valid]: [&[Sequence]; 2],
    settings: &Settings,
    sizes: Sizes,
) -> Estimate {
    let (sampler, plan) = (settings.sampler(train.len()), settings.plan());
    let (mut tokens, mut largest, mut most) = (0, BatchSize::default(), 0);
    for step in 0..plan.steps() {
        let rows = sampler.rows(step);
        let size = BatchSize::of(rows.iter().map(|&row| &train[row]));
        tokens += size.context;
        let bytes = Activations::new(config, precision, size, &[]).peak(0);
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
        trial_steps: (settings.lr == Rate::Auto).then(|| trial_steps(settings.steps)),
        tokens,
        largest,
        sizes,
        memory: Memory {
            program: RUNTIME_BYTES + stored,
            weights: numbers * bytes_of(precision.storage),
            activations: Activations::new(config, precision, largest, valid),
            // Value, gradient, two moments, the best, and the products of one step.
            training: 6 * sizes.trainable as u64 * math,
        },
        recomputed: 0,
    }
}

impl Estimate {
    /// The same run with as many layers recomputed as it takes to need at most `limit`
    /// bytes.
    ///
    /// # Errors
    /// [`Error::Memory`] when even all layers are not enough.
    pub fn within(self, limit: u64) -> Result<Estimate, Error> {
        match self.memory.recomputed_for(limit) {
            Some(recomputed) => Ok(Estimate { recomputed, ..self }),
            None => Err(Error::Memory {
                limit,
                least: self.memory.total(self.memory.activations.n_layer),
            }),
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [train, valid] = self.rows;
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
        writeln!(f, "steps      {}: {}", self.plan.steps(), self.plan)?;
        if let Some(steps) = self.trial_steps {
            writeln!(
                f,
                "rate       found by three to five trials of {steps} steps"
            )?;
        }
        writeln!(
            f,
            "trainable  {} numbers, {} of them gates",
            self.sizes.trainable, self.sizes.gates
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
            gib(self.memory.total(self.recomputed)),
            gib(weights),
            gib(activations.peak(self.recomputed)),
            self.largest.tokens,
            self.largest.targets,
            gib(training),
            gib(program),
        )?;
        if self.recomputed > 0 {
            let n_layer = activations.n_layer;
            write!(
                f,
                "; {} of {n_layer} layers are computed twice for it",
                self.recomputed
            )?;
        }
        Ok(())
    }
}
