//! The rows of a run, and what the layers below all edits make of them.
//!
//! Once heads are chosen, nothing that is trained reaches the layers below the lowest edited
//! one: what they make of a row is the same in every step. It is computed once and kept, if
//! it takes no more memory than the estimate of the run counts for those layers.

use tch::{no_grad, Device, Tensor};

use super::prompt_reference::PromptReference;
use crate::model::{bytes_of, passes, Batch, Bunch, Model, Reference, Sequence};

/// Tokenised rows, and their residual streams before a layer where those are kept.
#[derive(Debug)]
pub struct CachedRows<'a> {
    sequences: &'a [Sequence],
    /// The layer that the streams enter; 0: none are kept.
    layer: usize,
    /// [t, d] of each row, as far as [`Batch::pack`] packs it
    streams: Vec<Tensor>,
}

impl<'a> CachedRows<'a> {
    /// CachedRows of which nothing is kept.
    pub fn new(sequences: &'a [Sequence]) -> CachedRows<'a> {
        CachedRows {
            sequences,
            layer: 0,
            streams: Vec::new(),
        }
    }

    /// The rows as tokens.
    pub fn sequences(&self) -> &'a [Sequence] {
        self.sequences
    }

    /// The layer that the kept streams enter; 0: none are kept.
    pub fn kept_before(&self) -> usize {
        self.layer
    }

    /// Packs the rows with these indices. Where their residual streams are kept, the batch
    /// enters the model behind the layers that need no recomputation.
    pub fn pack(&self, rows: &[usize], device: Device) -> Batch {
        let batch = Batch::pack(rows.iter().map(|&row| &self.sequences[row]), device);
        self.enter_late(batch, rows)
    }

    /// [`pack`](Self::pack), with the places of prompts whose `turn` it is, and what the unedited
    /// model says there, which counts for `weight`.
    pub fn pack_beside(
        &self,
        rows: &[usize],
        (unedited, turn): (&PromptReference, usize),
        weight: f64,
        device: Device,
    ) -> Batch {
        let Some((places, stream)) = unedited.of(rows, turn) else {
            return self.pack(rows, device);
        };
        let sequences: Vec<&Sequence> = rows.iter().map(|&row| &self.sequences[row]).collect();
        let mut batch = Batch::pack_with(&sequences, &places, device);
        batch.reference = Some(Reference { stream, weight });
        self.enter_late(batch, rows)
    }

    /// Gives the batch of these rows the residual streams that are kept of them.
    fn enter_late(&self, mut batch: Batch, rows: &[usize]) -> Batch {
        if self.layer > 0 {
            let Bunch { prefix, lengths } = &batch.bunches[0];
            let own =
                |(&row, &length): (&usize, &i64)| self.streams[row].narrow(0, *prefix, length);
            let rest = rows.iter().zip(lengths).map(own);
            let prefix = self.streams[rows[0]].narrow(0, 0, *prefix);
            let pieces: Vec<Tensor> = std::iter::once(prefix).chain(rest).collect();
            batch.entry = Some((self.layer, Tensor::cat(&pieces, 0)));
        }
        batch
    }

    /// Bytes that the streams take.
    pub fn stream_bytes(&self, model: &Model) -> u64 {
        let tokens: usize = self.sequences.iter().map(|row| row.n_predicting()).sum();
        (tokens * model.config.n_embd) as u64 * bytes_of(model.precision.math)
    }

    /// Keeps nothing any more.
    pub fn forget(&mut self) {
        *self = CachedRows::new(self.sequences);
    }

    /// Computes the streams before `layer`, with no edit below it, and keeps them. They
    /// depend on nothing but the rows, so that a resumed run keeps the same.
    pub fn keep(&mut self, model: &Model, layer: usize) {
        // Those of before make room first.
        self.streams.clear();
        let mut streams = Vec::with_capacity(self.sequences.len());
        for pass in passes(self.sequences) {
            let batch = Batch::pack(&self.sequences[pass], model.device());
            let x = no_grad(|| model.enter(&batch, layer)); // [T, d]
            let Bunch { prefix, lengths } = &batch.bunches[0];
            let mut start = *prefix;
            let prefix = x.narrow(0, 0, *prefix);
            for &length in lengths {
                let own = x.narrow(0, start, length);
                streams.push(Tensor::cat(&[&prefix, &own], 0));
                start += length;
            }
        }
        (self.layer, self.streams) = (layer, streams);
    }
}
