//! What a run will take, worked out before it begins: for `--dry-run`.

use std::fmt;

use tch::Device;

use super::memory::{Activations, Memory};
use super::rate_search::trial_steps;
use super::schedule::Plan;
use super::settings::{Rate, Settings};
use super::weights_memory::WeightBytes;
use crate::base::Base;
use crate::data::PromptReference;
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
    /// Matrices that cannot stay in the file's blocks and should.
    pub dense_matrices: usize,
    /// Layers that are recomputed in the backward pass.
    pub recomputed: usize,
}

/// What a run on these rows will take that trains so much.
pub fn estimate(
    base: &dyn Base,
    config: &Config,
    (precision, device): (Precision, Device),
    [train, valid, test]: [&[Sequence]; 3],
    settings: &Settings,
    sizes: Sizes,
) -> Estimate {
    let (sampler, plan) = (settings.sampler(train.len()), settings.plan());
    let weights = WeightBytes::of(base, config, precision);
    let on_gpu = device.is_cuda();
    let [compared, kept] = match settings.kl > 0.0 {
        true => PromptReference::most(settings.batch_size, train.len()),
        false => [0; 2],
    };
    let (mut tokens, mut largest, mut most) = (0, BatchSize::default(), 0);
    for rows in sampler.first(plan.steps()) {
        let size = BatchSize::of(rows.iter().map(|&row| &train[row]));
        tokens += size.context;
        let of_size = Activations::new(
            config,
            precision,
            size,
            compared,
            [&[], &[]],
            &weights,
            on_gpu,
        );
        let bytes = of_size.peak(0);
        if bytes > most {
            (most, largest) = (bytes, size);
        }
    }
    let math = bytes_of(precision.math);
    let measured = [valid, test];
    let activations = Activations::new(
        config, precision, largest, compared, measured, &weights, on_gpu,
    );
    Estimate {
        rows: [train.len(), valid.len()],
        epoch_tokens: train.iter().map(|row| row.tokens.len() - 1).sum(),
        longest: train
            .iter()
            .chain(valid)
            .chain(test)
            .map(|row| row.tokens.len())
            .max()
            .unwrap_or(0),
        plan,
        trial_steps: (settings.lr == Rate::Auto).then(|| trial_steps(settings.steps)),
        tokens,
        largest,
        sizes,
        memory: Memory {
            program: RUNTIME_BYTES,
            weights: weights.held,
            activations,
            // Value, gradient, two moments, the best, and the products of one step; the unedited
            // model's streams.
            training: (6 * sizes.trainable + kept * config.n_embd) as u64 * math,
            on_gpu,
        },
        dense_matrices: weights.dense_matrices,
        recomputed: activations.least_recomputed(),
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
                least: self.memory.device(self.memory.activations.n_layer),
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
            on_gpu,
        } = self.memory;
        write!(
            f,
            "memory     {:.2} GiB {}at the peak: weights {:.2}, activations {:.2} (a batch of {} tokens, {} of them answers), training {:.2}{} program {:.2}{}",
            gib(self.memory.device(self.recomputed)),
            if on_gpu { "of the GPU " } else { "" },
            gib(weights),
            gib(activations.peak(self.recomputed)),
            self.largest.tokens,
            self.largest.targets,
            gib(training),
            if on_gpu { "; of the host:" } else { "," },
            gib(program),
            if on_gpu { " and what the driver takes" } else { "" },
        )?;
        if self.dense_matrices > 0 {
            let count = self.dense_matrices;
            write!(
                f,
                "; {count} matrices have a format that cannot stay quantised"
            )?;
        }
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
