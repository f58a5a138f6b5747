//! The memory that a run needs, and how many layers must be recomputed for it to fit.

use super::weights_memory::WeightBytes;
use crate::model::{bytes_of, passes, rows_at_once, BatchSize, Config, Precision, Sequence};

/// Of what layers leave for the backward pass, a CPU's heap takes this part once more: rows of many
/// lengths leave holes between tensors. Measured on SmolLM2-135M and Qwen2.5-Coder 1.5B
/// (`research/runs/2026-11-27-memory`).
const HOLES: u64 = 4;

/// Bytes at the peak of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// libtorch and the rest of the program, always on the host.
    pub program: u64,
    /// The frozen weights as they are held.
    pub weights: u64,
    /// What the backward pass needs, or a validation.
    pub activations: Activations,
    /// Trained numbers with gradients, moments and copies.
    pub training: u64,
    /// Whether all but the program is on a GPU.
    pub on_gpu: bool,
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
    /// Dense weights of one layer, where they are there only while it computes.
    pub layer_weights: u64,
    /// The logits that are made at a time, their log-softmax and the gradient of each.
    pub logits: u64,
    /// The dense output matrix, where it is there only for the logits.
    pub output_matrix: u64,
    /// The logits of the largest validation batch, their log-softmax and what is compared.
    pub validation: u64,
    /// Whether what one phase of a step leaves is not there for the next, as in a CPU's heap,
    /// which keeps room for tensors of the sizes that it has seen. Then the phases add up.
    pub adds_up: bool,
}

impl Memory {
    /// What the device takes that computes, when so many of the lowest layers are recomputed in
    /// the backward pass; a CPU holds the program as well.
    pub fn device(&self, recomputed: usize) -> u64 {
        let program = if self.on_gpu { 0 } else { self.program };
        program + self.weights + self.activations.peak(recomputed) + self.training
    }

    /// How many layers must be recomputed for the device to need at most `limit` bytes;
    /// `None` when even all of them are not enough. Layers whose weights are dense only while
    /// they compute are all recomputed.
    pub fn recomputed_for(&self, limit: u64) -> Option<usize> {
        let least = self.activations.least_recomputed();
        (least..=self.activations.n_layer).find(|&recomputed| self.device(recomputed) <= limit)
    }
}

impl Activations {
    /// For a training batch of `size`, of which so many places are compared with the unedited
    /// model, and for validation and test rows.
    pub fn new(
        config: &Config,
        precision: Precision,
        size: BatchSize,
        compared: usize,
        measured: [&[Sequence]; 2],
        weights: &WeightBytes,
        on_gpu: bool,
    ) -> Activations {
        let math = bytes_of(precision.math);
        let count = |n: usize| n as u64;
        let logits = |rows: usize| {
            let rows = rows.min(rows_at_once(config.n_vocab as i64) as usize);
            count(rows) * count(config.n_vocab) * math
        };
        Activations {
            n_layer: config.n_layer,
            layer: layer_bytes(config, precision, size),
            input: count(size.tokens * config.n_embd) * math,
            layer_weights: weights.layer,
            // Of places that are compared the unedited model's are there, too.
            logits: 5 * logits(size.targets) + 8 * logits(compared),
            output_matrix: weights.output_matrix,
            validation: 2 * logits(measured.map(validation_rows).into_iter().max().unwrap_or(0)),
            adds_up: !on_gpu,
        }
    }

    /// How many layers are recomputed in any case.
    pub fn least_recomputed(&self) -> usize {
        match self.layer_weights {
            0 => 0,
            _ => self.n_layer,
        }
    }

    /// The most that is there at once: when the loss is known, when a layer has been
    /// recomputed, or in a validation.
    pub fn peak(&self, recomputed: usize) -> u64 {
        let with_holes = |bytes: u64| match self.adds_up {
            true => bytes + bytes / HOLES,
            false => bytes,
        };
        let kept = with_holes((self.n_layer - recomputed) as u64 * self.layer);
        let inputs = recomputed as u64 * self.input;
        let one = match recomputed {
            0 => 0,
            // What it leaves, as much again in gradients, and its weights.
            _ => with_holes(2 * self.layer) + self.layer_weights,
        };
        let loss = kept + self.logits + self.output_matrix;
        let phases = if self.adds_up {
            one + loss
        } else {
            one.max(loss)
        };
        (inputs + phases).max(self.validation + self.output_matrix)
    }
}

/// What one layer leaves for the backward pass of a batch of `size`.
pub(super) fn layer_bytes(config: &Config, precision: Precision, size: BatchSize) -> u64 {
    let Precision {
        storage,
        math,
        attention,
        ..
    } = precision;
    let [storage, math, attention] = [storage, math, attention].map(bytes_of);
    let count = |n: usize| n as u64;
    let heads = count(config.n_head * config.head_dim);
    let kv = count(config.n_head_kv * config.head_dim);
    let norms = 2 * count(config.n_embd) * math; // what each norm reads
    let queries = heads * attention;
    let keys_values = 2 * kv * attention;
    let outputs = heads * (attention + math); // head outputs, and as the edit reads them
    let used = config.experts.map_or(1, |experts| count(experts.used));
    let ffn = used * 3 * count(config.n_ff) * storage; // gate, its activation, up
    let per_token = norms + queries + outputs + ffn;
    // Capped scores are there, before and behind their cap and as shares.
    let scores = config.score_cap.map_or(0, |_| 3 * math);
    let scores = count(size.pairs * config.n_head) * scores;
    count(size.tokens) * per_token + count(size.context) * keys_values + scores
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
            layer_weights: 0,
            logits: 50,
            output_matrix: 0,
            validation: 60,
            adds_up: false,
        },
        training: 5,
        on_gpu: false,
    };

    #[test]
    fn recomputed_layers_keep_what_they_read() {
        let total = |recomputed| MEMORY.device(recomputed) - 35;
        assert_eq!(total(0), 450);
        assert_eq!(total(1), 10 + 300 + 50);
        assert_eq!(total(2), 20 + 200 + 50);
        assert_eq!(
            total(4),
            40 + 2 * 100,
            "one layer is there when it is recomputed, with its gradients"
        );
        let mut adding = MEMORY;
        adding.activations.adds_up = true;
        assert_eq!(
            adding.device(0),
            MEMORY.device(0) + 400 / 4,
            "holes in the heap"
        );
        assert_eq!(adding.device(4) - 35, 40 + 2 * 100 + 200 / 4 + 50);
    }

    #[test]
    fn no_more_layers_are_recomputed_than_need_be() {
        assert_eq!(MEMORY.recomputed_for(1000), Some(0));
        assert_eq!(MEMORY.recomputed_for(35 + 450), Some(0));
        assert_eq!(MEMORY.recomputed_for(35 + 449), Some(1));
        assert_eq!(MEMORY.recomputed_for(35 + 230), Some(3));
        assert_eq!(MEMORY.recomputed_for(35 + 229), None);
    }

    #[test]
    fn weights_that_are_dense_for_a_while_count_where_they_are() {
        let mut memory = MEMORY;
        memory.on_gpu = true;
        memory.activations.layer_weights = 30;
        memory.activations.output_matrix = 200;
        assert_eq!(memory.activations.least_recomputed(), 4);
        assert_eq!(memory.device(4), 20 + 5 + 40 + 250);
        memory.activations.output_matrix = 0;
        assert_eq!(memory.device(4), 20 + 5 + 40 + 230);
        assert_eq!(memory.recomputed_for(1000), Some(4));
        assert_eq!(memory.recomputed_for(294), None);
    }
}
