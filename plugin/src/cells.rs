//! Cached keys and values of a context, kept to the edits that are in force.
//!
//! Before a computation, sequences whose cells were computed under other edits are computed
//! anew from their tokens, so that their host needs to know nothing of it: llama-server keeps a
//! slot's cache when a request leaves out `lora`, and its store of earlier prompts does not know
//! under which adapters they were read. Where the tokens are not known the computation is
//! refused, since its result would be wrong.

use std::collections::BTreeSet;

use crate::batch::{Batch, Input};
use crate::host::{LlamaContext, LlamaMemory};
use crate::log;
use crate::sequences::{Cells, Placed, Range, Tag};
use crate::state::ContextState;

/// Why a computation is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellsError {
    /// The adapters that were set last could not be.
    #[error("nothing is computed: {0}")]
    Adapters(String),
    /// Cells of other edits, whose tokens are not known.
    #[error(
        "sequence {sequence}: what is cached was computed under other edits and cannot be \
         computed anew ({why}); remove it first (llama-server: `\"cache_prompt\": false` in the \
         request, or erase the slot)"
    )]
    Stale {
        /// The sequence.
        sequence: i32,
        /// Why its tokens do not help.
        why: &'static str,
    },
    /// Computing them anew failed.
    #[error("sequence {sequence}: computing anew what other edits had cached failed with status {status}")]
    Status {
        /// The sequence.
        sequence: i32,
        /// What `llama_decode` returned.
        status: i32,
    },
}

/// What `llama_decode` returns when the cache is as it was before: no room, an invalid batch.
const RESTORED: [i32; 2] = [1, -1];

/// What is computed in a call, as far as it is known.
pub enum Inputs {
    /// All of it.
    Known(Vec<Input>),
    /// A batch of a type that tells nothing.
    Unknown,
}

/// What has to be looked at after a computation.
pub struct Prepared {
    tag: Tag,
    /// Sequences with cells of other edits, and their last positions: a computation of unknown
    /// inputs must not have gone on with them.
    stale: Vec<(i32, i32)>,
}

impl ContextState {
    /// Brings the cells that `inputs` will attend to in line with the edits in force.
    ///
    /// # Errors
    /// Any [`CellsError`].
    ///
    /// # Safety
    /// `context` must be this state's context, alive and used by no other thread, and be
    /// entered.
    pub unsafe fn prepare(
        &self,
        context: *mut LlamaContext,
        inputs: &Inputs,
    ) -> Result<Prepared, CellsError> {
        let tag = {
            let inner = self.lock();
            if let Some(refused) = &inner.refused {
                return Err(CellsError::Adapters(refused.clone()));
            }
            inner.tag()
        };
        let mut stale = Vec::new();
        // SAFETY: the caller vouches for `context`.
        let memory = unsafe { (self.host.llama.llama_get_memory)(context) };
        if memory.is_null() {
            return Ok(Prepared { tag, stale });
        }
        match inputs {
            Inputs::Known(inputs) => {
                // SAFETY: as above.
                let possible = unsafe { self.possible(context) };
                let sequences: BTreeSet<i32> = inputs.iter().map(|i| i.sequence).collect();
                for sequence in sequences.into_iter().filter(|of| possible.contains(of)) {
                    // SAFETY: as above.
                    if let Some((last, cells)) = unsafe { self.stale(memory, sequence, tag) } {
                        let tokens = inputs.iter().all(|input| input.token.is_some());
                        // SAFETY: as above.
                        unsafe { self.renew(context, sequence, last, &cells, tag, tokens)? };
                    }
                }
            }
            Inputs::Unknown => {
                // SAFETY: as above.
                for sequence in unsafe { self.possible(context) } {
                    // SAFETY: as above.
                    let found = unsafe { self.stale(memory, sequence, tag) };
                    stale.extend(found.map(|(last, _)| (sequence, last)));
                }
            }
        }
        Ok(Prepared { tag, stale })
    }

    /// The cells of a sequence and their last position, if they are not those of `tag`.
    ///
    /// # Safety
    /// `memory` must be that of this state's context, which is alive.
    unsafe fn stale(
        &self,
        memory: *mut LlamaMemory,
        sequence: i32,
        tag: Tag,
    ) -> Option<(i32, Cells)> {
        // SAFETY: the caller vouches for `memory`.
        let last = unsafe { self.last(memory, sequence) };
        let mut sequences = self.sequences();
        sequences.reconcile(sequence, last);
        let cells = sequences.get(sequence)?;
        (cells.tag != Some(tag)).then(|| (last, cells.clone()))
    }

    /// The sequences that a context can have; llama.cpp ends the process for others.
    ///
    /// # Safety
    /// As for [`Self::prepare`].
    pub(crate) unsafe fn possible(&self, context: *const LlamaContext) -> std::ops::Range<i32> {
        // SAFETY: the caller vouches for `context`.
        let count = unsafe { (self.host.llama.llama_n_seq_max)(context) };
        0..i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// The last position of a sequence, negative if it is empty.
    ///
    /// # Safety
    /// As for [`Self::stale`].
    unsafe fn last(&self, memory: *mut LlamaMemory, sequence: i32) -> i32 {
        // SAFETY: the caller vouches for `memory`.
        unsafe { (self.host.memory.llama_memory_seq_pos_max)(memory, sequence) }
    }

    /// Computes the cells of a sequence anew.
    ///
    /// # Safety
    /// As for [`Self::prepare`].
    unsafe fn renew(
        &self,
        context: *mut LlamaContext,
        sequence: i32,
        last: i32,
        cells: &Cells,
        tag: Tag,
        tokens_follow: bool,
    ) -> Result<(), CellsError> {
        let refused = |why| CellsError::Stale { sequence, why };
        if !tokens_follow {
            // Images may be read with another attention than the tokens before them.
            return Err(refused("an image or a vector follows"));
        }
        let tokens = cells
            .all_tokens(last)
            .ok_or(refused("its tokens are not known"))?;
        log::info(format_args!(
            "sequence {sequence}: {} tokens were cached under other edits, computed anew",
            tokens.len()
        ));
        // SAFETY: the caller vouches for `context`; the cells are told apart by their sequence.
        unsafe {
            let memory = (self.host.llama.llama_get_memory)(context);
            (self.host.memory.llama_memory_seq_rm)(memory, sequence, -1, -1);
            self.sequences().remove(sequence, Range::new(-1, -1));
            let at_once = (self.host.llama.llama_n_batch)(context).max(1) as usize;
            for part in tokens.chunks(at_once) {
                self.compute_part(context, sequence, part, tag)?;
            }
        }
        Ok(())
    }

    /// # Safety
    /// As for [`Self::prepare`].
    unsafe fn compute_part(
        &self,
        context: *mut LlamaContext,
        sequence: i32,
        part: &[Placed],
        tag: Tag,
    ) -> Result<(), CellsError> {
        let mut batch = Batch::new(sequence, part);
        // SAFETY: the batch outlives the call; the caller vouches for `context`.
        let status = unsafe { (self.host.llama.llama_decode)(context, batch.by_value()) };
        if status != 0 {
            return Err(CellsError::Status { sequence, status });
        }
        let mut sequences = self.sequences();
        for (position, token) in part {
            sequences.add(sequence, *position, Some(*token), tag);
        }
        Ok(())
    }

    /// Remembers what was computed, in a call that returned `status`.
    ///
    /// # Errors
    /// [`CellsError::Stale`] if it went on with cells of other edits.
    ///
    /// # Safety
    /// As for [`Self::prepare`].
    pub unsafe fn note(
        &self,
        context: *mut LlamaContext,
        inputs: &Inputs,
        prepared: &Prepared,
        status: i32,
    ) -> Result<(), CellsError> {
        // SAFETY: the caller vouches for `context`.
        let memory = unsafe { (self.host.llama.llama_get_memory)(context) };
        if memory.is_null() || RESTORED.contains(&status) {
            return Ok(());
        }
        match inputs {
            Inputs::Known(inputs) => self.note_inputs(inputs, prepared.tag),
            Inputs::Unknown => {
                // SAFETY: as above.
                for sequence in unsafe { self.possible(context) } {
                    // SAFETY: as above.
                    let last = unsafe { self.last(memory, sequence) };
                    self.note_unknown(sequence, last, prepared)?;
                }
            }
        }
        if status != 0 {
            // Some of it may be in the cache, or none.
            let noted: Vec<i32> = self.sequences().iter().map(|(of, _)| of).collect();
            // SAFETY: as above.
            let possible = unsafe { self.possible(context) };
            for sequence in noted.into_iter().filter(|of| possible.contains(of)) {
                // SAFETY: as above.
                let last = unsafe { self.last(memory, sequence) };
                self.sequences().reconcile(sequence, last);
            }
        }
        Ok(())
    }

    fn note_inputs(&self, inputs: &[Input], tag: Tag) {
        let mut sequences = self.sequences();
        for input in inputs {
            let last = || {
                let tokens = sequences.get(input.sequence)?.tokens.as_ref()?;
                Some(tokens.last()?.0)
            };
            let position = input
                .position
                .unwrap_or_else(|| last().map_or(0, |last| last + 1));
            sequences.add(input.sequence, position, input.token, tag);
        }
    }

    fn note_unknown(
        &self,
        sequence: i32,
        last: i32,
        prepared: &Prepared,
    ) -> Result<(), CellsError> {
        let before = prepared.stale.iter().find(|(of, _)| *of == sequence);
        let mut sequences = self.sequences();
        match before {
            Some((_, before)) if *before != last => {
                let why = "this version's batches do not tell tokens";
                return Err(CellsError::Stale { sequence, why });
            }
            Some(_) => {}
            None if last >= 0 => {
                let known = sequences
                    .get(sequence)
                    .and_then(|cells| cells.tokens.as_ref());
                let known = known
                    .and_then(|tokens| tokens.last())
                    .map(|(last, _)| *last);
                if known != Some(last) {
                    sequences.add(sequence, last, None, prepared.tag);
                }
            }
            None => {}
        }
        Ok(())
    }
}
