//! A context: the state of one or more sequences under way, with edits or without.

mod batch;
mod edits;
mod params;

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::hook::{self, Hook};
use crate::lora::Lora;
use crate::model::{Model, Token};
use crate::native::{self, ffi};
use crate::{logging, Error};

pub use batch::Batch;
pub use params::{CacheType, ContextParams, FlashAttention};

/// A llama.cpp context.
pub struct Context {
    ptr: NonNull<sys::llama_context>,
    hook: Option<Hook>,
    /// Keeps the adapters alive that the context uses.
    loras: Vec<Lora>,
    model: Model,
    n_batch: usize,
    n_ctx: usize,
    /// llama.cpp has left it half-way: it can only be freed.
    broken: bool,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("model", &self.model)
            .field("n_ctx", &self.n_ctx)
            .field("n_batch", &self.n_batch)
            .field("edited", &self.hook.is_some())
            .field("loras", &self.loras)
            .finish_non_exhaustive()
    }
}

// SAFETY: a llama_context may be used from any thread, one at a time; methods that use it
// take &mut self or only read.
unsafe impl Send for Context {}

impl Context {
    /// Creates a context.
    ///
    /// # Errors
    /// [`Error::ContextInit`], with llama.cpp's own reason.
    pub fn new(model: &Model, params: &ContextParams) -> Result<Self, Error> {
        // SAFETY: nothing is changed.
        unsafe { Self::create(model, params, |_| ()) }
    }

    /// As [`Self::new`], with llama.cpp's own parameters changed by `change`.
    ///
    /// # Safety
    /// What `change` sets must suit llama.cpp, and live as long as the context.
    pub(crate) unsafe fn create(
        model: &Model,
        params: &ContextParams,
        change: impl FnOnce(&mut sys::llama_context_params),
    ) -> Result<Self, Error> {
        // SAFETY: returns a struct of plain values.
        let mut raw = unsafe { sys::llama_context_default_params() };
        let n_seq_max = params.n_seq_max.max(1);
        let n_ctx = if params.n_ctx == 0 {
            model.n_ctx_train() as u32
        } else {
            params.n_ctx
        };
        if n_seq_max > params.n_batch.min(params.n_ubatch) {
            // Where llama.cpp would stop the process.
            let reason =
                format!("{n_seq_max} sequences need batches and micro-batches of as many tokens");
            return Err(Error::ContextInit { n_ctx, reason });
        }
        raw.n_ctx = match params.n_cells {
            0 => n_ctx.saturating_mul(n_seq_max),
            n => n,
        };
        raw.n_batch = params.n_batch;
        raw.n_ubatch = params.n_ubatch;
        raw.n_seq_max = n_seq_max;
        let threads = params.threads() as i32;
        raw.n_threads = threads;
        raw.n_threads_batch = threads;
        raw.type_k = params.type_k.raw();
        raw.type_v = params.type_v.raw();
        let float_cache = (params.type_k, params.type_v) == (CacheType::F32, CacheType::F32);
        raw.flash_attn_type = match params.flash_attention {
            FlashAttention::Auto if float_cache => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        };
        // One pool of cells for all sequences, so that they can share a prompt.
        raw.kv_unified = true;
        change(&mut raw);
        // SAFETY: the model is alive; the caller vouches for pointers in the parameters.
        let init = |result: &mut _| unsafe { ffi::jola_context_init(model.as_ptr(), raw, result) };
        let guard = model.adapters();
        let (ptr, reason) = logging::with_errors(|| {
            native::guarded("llama_init_from_model", std::ptr::null_mut(), init)
        });
        drop(guard);
        let fail = |reason| Error::ContextInit { n_ctx, reason };
        let ptr = ptr.map_err(|error| fail(error.to_string()))?;
        let ptr = NonNull::new(ptr).ok_or_else(|| fail(reason))?;
        // SAFETY: the context is alive and has computed nothing.
        unsafe { hook::set_sequence_length(ptr, n_ctx) };
        // SAFETY: the context is alive.
        let (n_batch, n_cells) = unsafe {
            let ptr = ptr.as_ptr();
            (
                sys::llama_n_batch(ptr) as usize,
                sys::llama_n_ctx(ptr) as usize,
            )
        };
        Ok(Self {
            ptr,
            hook: None,
            loras: Vec::new(),
            model: model.clone(),
            n_batch,
            n_ctx: match params.n_cells {
                0 => n_cells / n_seq_max as usize,
                _ => n_cells.min(n_ctx as usize),
            },
            broken: false,
        })
    }

    /// The model that the context was created for.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Most tokens of a sequence.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Most tokens in one [`Self::decode`].
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Most tokens computed at once.
    pub fn n_ubatch(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::llama_n_ubatch(self.ptr.as_ptr()) as usize }
    }

    /// Sequences that can be under way at once.
    pub fn n_seq_max(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::llama_n_seq_max(self.ptr.as_ptr()) as usize }
    }

    pub(crate) fn as_ptr(&mut self) -> *mut sys::llama_context {
        self.ptr.as_ptr()
    }

    fn check_sequence(&self, sequence: usize) -> Result<(), Error> {
        hook::check_sequence(sequence, self.n_seq_max())
    }

    fn check_usable(&self) -> Result<(), Error> {
        match self.broken {
            true => Err(Error::Broken),
            false => Ok(()),
        }
    }

    /// Decodes a batch of at most [`Self::n_batch`] tokens.
    ///
    /// # Errors
    /// [`Error::TokenRange`], [`Error::NoSequence`], [`Error::SequenceRange`],
    /// [`Error::SharedToken`], [`Error::ContextFull`], [`Error::Decode`] and
    /// [`Error::NotANumber`]; after [`Error::Exception`] the context is
    /// [broken](Error::Broken).
    pub fn decode(&mut self, batch: &Batch) -> Result<(), Error> {
        self.decode_unchecked(batch)?;
        for (index, output) in batch.outputs.iter().enumerate() {
            if *output != 0 {
                self.check_logits(index, batch.positions[index] as usize)?;
            }
        }
        Ok(())
    }

    /// As [`Self::decode`], without a look at the logits.
    pub(crate) fn decode_unchecked(&mut self, batch: &Batch) -> Result<(), Error> {
        self.check_usable()?;
        for &token in &batch.tokens {
            self.model.check_token(token)?;
        }
        let n_seq_max = self.n_seq_max();
        if batch.n_sequences.contains(&0) {
            return Err(Error::NoSequence);
        }
        let known = |sequence: &i32| usize::try_from(*sequence).is_ok_and(|s| s < n_seq_max);
        if let Some(&sequence) = batch.sequences.iter().find(|sequence| !known(sequence)) {
            return Err(Error::SequenceRange {
                sequence,
                n_seq_max,
            });
        }
        if let Some(hook) = &self.hook {
            let agree = |a: i32, b: i32| hook.agree(a as usize, b as usize);
            if let Some(position) = batch.first_shared_unless(agree) {
                return Err(Error::SharedToken { position });
            }
        }
        let last = batch.positions.iter().max().map_or(0, |p| *p as usize + 1);
        if last > self.n_ctx() || batch.len() > self.n_batch {
            let n_ctx = self.n_ctx().min(self.n_batch);
            return Err(Error::ContextFull {
                needed: last.max(batch.len()),
                n_ctx,
            });
        }
        let mut batch = batch.clone();
        let mut rest = batch.sequences.as_mut_slice();
        let mut seq_ptrs = Vec::with_capacity(batch.n_sequences.len());
        for n in &batch.n_sequences {
            let (of_token, others) = rest.split_at_mut(*n as usize);
            seq_ptrs.push(of_token.as_mut_ptr());
            rest = others;
        }
        let raw = sys::llama_batch {
            n_tokens: batch.tokens.len() as i32,
            token: batch.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: batch.positions.as_mut_ptr(),
            n_seq_id: batch.n_sequences.as_mut_ptr(),
            seq_id: seq_ptrs.as_mut_ptr(),
            logits: batch.outputs.as_mut_ptr(),
        };
        // SAFETY: the context is alive; every array of the batch has n_tokens elements, every
        // pointer of seq_ptrs as many as n_seq_id says, and all outlive the call.
        let decode = |result: &mut _| unsafe { ffi::jola_decode(self.ptr.as_ptr(), raw, result) };
        let guard = self.model.adapters();
        let (status, reason) = logging::with_errors(|| native::guarded("llama_decode", 0, decode));
        drop(guard);
        self.broken |= status.is_err();
        match status? {
            0 => Ok(()),
            1 => Err(Error::ContextFull {
                needed: last,
                n_ctx: self.n_ctx(),
            }),
            status => Err(Error::Decode { status, reason }),
        }
    }

    /// Refuses logits that are no numbers: whatever is chosen or scored by them is chance.
    pub(crate) fn check_logits(&self, index: usize, position: usize) -> Result<(), Error> {
        let logits = self.logits(index as i32);
        match logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
            true => Err(Error::NotANumber { position }),
            false => Ok(()),
        }
    }

    /// The logits `[n_vocab]` of token `index` of the last batch, which must have asked for
    /// output. Negative indices count from the last output.
    ///
    /// # Panics
    /// When that token has no logits.
    pub fn logits(&self, index: i32) -> &[f32] {
        self.find_logits(index)
            .unwrap_or_else(|| panic!("{}", Error::NoLogits { index }))
    }

    /// As [`Self::logits`], nothing where there are none.
    pub(crate) fn find_logits(&self, index: i32) -> Option<&[f32]> {
        if self.broken {
            return None;
        }
        // SAFETY: the context is alive; the result is null or n_vocab floats that stay
        // valid until the next decode, which needs &mut self.
        unsafe {
            let data = sys::llama_get_logits_ith(self.ptr.as_ptr(), index);
            (!data.is_null()).then(|| std::slice::from_raw_parts(data, self.model.n_vocab()))
        }
    }

    /// Decodes `tokens` from position 0 of an emptied context and returns the logits of
    /// every position, row-major `[n_tokens, n_vocab]`.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn logits_of(&mut self, tokens: &[Token]) -> Result<Vec<f32>, Error> {
        self.clear();
        let n_vocab = self.model.n_vocab();
        let mut logits = Vec::with_capacity(tokens.len() * n_vocab);
        for (chunk_index, chunk) in tokens.chunks(self.n_batch).enumerate() {
            let mut batch = Batch::new();
            for (i, &token) in chunk.iter().enumerate() {
                batch.push(token, chunk_index * self.n_batch + i, 0, true);
            }
            self.decode(&batch)?;
            for i in 0..chunk.len() {
                logits.extend_from_slice(self.logits(i as i32));
            }
        }
        Ok(logits)
    }

    /// Waits until everything that was decoded is computed; reading logits waits by itself.
    pub fn synchronize(&mut self) {
        // SAFETY: the context is alive.
        unsafe { sys::llama_synchronize(self.ptr.as_ptr()) };
    }

    /// Forgets all sequences.
    pub fn clear(&mut self) {
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.ptr.as_ptr()), false) };
    }

    /// As [`Self::clear`], with zeros written over the keys and values: some that are no numbers
    /// would spoil whatever is computed beside them.
    pub(crate) fn wipe(&mut self) {
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.ptr.as_ptr()), true) };
    }

    /// Forgets all but the first `len` tokens of sequence `sequence`. Models with recurrent
    /// layers can only forget all. There is nothing to forget of a sequence that the context
    /// does not have, or behind what it holds.
    pub fn truncate_sequence(&mut self, sequence: usize, len: usize) {
        if sequence >= self.n_seq_max() || len >= self.n_ctx {
            return;
        }
        // SAFETY: the context is alive and has the sequence; -1 stands for "to the end".
        unsafe {
            let memory = sys::llama_get_memory(self.ptr.as_ptr());
            sys::llama_memory_seq_rm(memory, sequence as i32, len as i32, -1);
        }
    }

    /// Empties the context, decodes what all of `prompts` begin with into every sequence,
    /// once, and returns its length. The last token of each prompt is never part of it, and
    /// it is empty for models with recurrent layers, whose sequences cannot go back to it, and
    /// for sequences with different edits, which make different things of it.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn share_beginning(&mut self, prompts: &[&[Token]]) -> Result<usize, Error> {
        let all = 0..self.n_seq_max();
        match all.clone().all(|sequence| self.same_edits(0, sequence)) {
            true => self.share_among(prompts, &[all]),
            false => {
                self.clear();
                Ok(0)
            }
        }
    }

    /// As [`Self::share_beginning`], once for each of `groups` of sequences, which have the
    /// same edits within a group.
    pub(crate) fn share_among(
        &mut self,
        prompts: &[&[Token]],
        groups: &[Range<usize>],
    ) -> Result<usize, Error> {
        self.clear();
        let Some((first, others)) = prompts.split_first() else {
            return Ok(0);
        };
        if others.is_empty() || self.model.is_recurrent() {
            return Ok(0);
        }
        let len = others.iter().map(|other| common(first, other)).min();
        let len = len.unwrap_or(0);
        let len = len.min(first.len().saturating_sub(1));
        let mut batch = Batch::new();
        for group in groups {
            for (position, &token) in first[..len].iter().enumerate() {
                if batch.len() == self.n_batch {
                    self.decode(&batch)?;
                    batch.clear();
                }
                batch.push_shared(token, position, group.clone(), false);
            }
        }
        if !batch.is_empty() {
            self.decode(&batch)?;
        }
        Ok(len)
    }
}

/// How many tokens both begin with, the last of `tokens` aside, whose logits are wanted.
pub(crate) fn common(held: &[Token], tokens: &[Token]) -> usize {
    let wanted = &tokens[..tokens.len().saturating_sub(1)];
    let pairs = held.iter().zip(wanted);
    pairs.take_while(|(a, b)| a == b).count()
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(hook) = self.hook.take() {
            // SAFETY: the context is freed right after.
            unsafe { hook.release() };
        }
        // SAFETY: created by llama_init_from_model, freed once.
        unsafe { sys::llama_free(self.ptr.as_ptr()) };
    }
}
