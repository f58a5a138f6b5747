//! The memory that a run needs, and how many layers must be recomputed for it to fit.

use crate::model::{bytes_of, passes, BatchSize, Config, Precision, Sequence};

/// Bytes at the peak of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// libtorch and the rest of the program, and the base model's file as it is mapped.
    pub program: u64,
    /// The frozen weights in their number format.
    pub weights: u64,
    /// What the backward pass needs, or a validation.
    pub activations: Activations,
    /// Trained numbers with gradients, moments and copies.
    pub training: u64,
}

/// Bytes that come and go in every step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activations {
    /// Layers of the model.
    pub n_layer: usize,
    /// What one layer leaves for the backward pass.
    pub layer: u64,
    /// What one layer reads: all that it leaves when it is recomputed.
    pub input: u64,
    /// Logits, their log-softmax and the gradient of each.
    pub logits: u64,
    /// The logits of the largest validation batch, their log-softmax and what is compared.
    pub validation: u64,
}

impl Memory {
    /// All of it, when so many of the lowest layers are recomputed in the backward pass.
    pub fn total(&self, recomputed: usize) -> u64 {
        self.program + self.weights + self.activations.peak(recomputed) + self.training
    }

    /// How many layers must be recomputed for the run to need at most `limit` bytes;
    /// `None` when even all of them are not enough.
    pub fn recomputed_for(&self, limit: u64) -> Option<usize> {
        (0..=self.activations.n_layer).find(|&recomputed| self.total(recomputed) <= limit)
    }
}

impl Activations {
    /// For a training batch of `size` and for validation on `valid`.
    pub fn new(
        config: &Config,
        precision: Precision,
        size: BatchSize,
        valid: &[Sequence],
    ) -> Activations {
        let (storage, math) = (bytes_of(precision.storage), bytes_of(precision.math));
        let count = |n: usize| n as u64;
        let heads = count(config.n_head * config.head_dim);
        let kv = count(config.n_head_kv * config.head_dim);
        let input = count(config.n_embd) * math;
        let norms = 2 * input; // what each norm reads
        let queries = heads * math;
        let keys_values = 2 * kv * math;
        let outputs = 2 * heads * math; // head outputs, and as the edit reads them
        let used = config.experts.map_or(1, |experts| count(experts.used));
        let ffn = used * 3 * count(config.n_ff) * storage; // gate, its activation, up
        let per_token = norms + queries + outputs + ffn;
        let logits = |rows: usize| count(rows) * count(config.n_vocab) * math;
        Activations {
            n_layer: config.n_layer,
            layer: count(size.tokens) * per_token + count(size.context) * keys_values,
            input: count(size.tokens) * input,
            logits: 4 * logits(size.targets),
            validation: 2 * logits(validation_rows(valid)),
        }
    }

    /// The most that is there at once: when the loss is known, when a layer has been
    /// recomputed, or in a validation.
    pub fn peak(&self, recomputed: usize) -> u64 {
        let kept = (self.n_layer - recomputed) as u64 * self.layer;
        let inputs = recomputed as u64 * self.input;
        let one = if recomputed > 0 { self.layer } else { 0 };
        (inputs + one.max(kept + self.logits)).max(self.validation)
    }
}

/// Answer tokens of the validation batch that has most of them.
fn validation_rows(valid: &[Sequence]) -> usize {
    passes(valid)
        .map(|pass| BatchSize::of(&valid[pass]).targets)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Memory = Memory {
        program: 10,
        weights: 20,
        activations: Activations {
            n_layer: 4,
            layer: 100,
            input: 10,
            logits: 50,
            validation: 60,
        },
        training: 5,
    };

    #[test]
    fn recomputed_layers_keep_what_they_read() {
        let total = |recomputed| MEMORY.total(recomputed) - 35;
        assert_eq!(total(0), 450);
        assert_eq!(total(1), 10 + 300 + 50);
        assert_eq!(total(3), 30 + 100 + 50);
        assert_eq!(
            total(4),
            40 + 100,
            "one layer is there when it is recomputed"
        );
    }

    #[test]
    fn no_more_layers_are_recomputed_than_need_be() {
        assert_eq!(MEMORY.recomputed_for(1000), Some(0));
        assert_eq!(MEMORY.recomputed_for(35 + 450), Some(0));
        assert_eq!(MEMORY.recomputed_for(35 + 449), Some(1));
        assert_eq!(MEMORY.recomputed_for(35 + 140), Some(4));
        assert_eq!(MEMORY.recomputed_for(35 + 139), None);
    }
}
