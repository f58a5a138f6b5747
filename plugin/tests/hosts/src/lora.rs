//! The reference for edits together with a LoRA. The engine's safe interface has no LoRA, so
//! this one is made of llama.cpp's own calls and the engine's hook on a raw context.

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;

use anyhow::{ensure, Context as _, Result};
use llama_cpp_sys_2 as sys;
use llama_jola::hook::Hook;
use llama_jola::EditSet;

use crate::reference::log_softmax;

const N_CTX: u32 = 1024;

/// A raw context with edits and a LoRA.
pub struct LoraReference {
    model: NonNull<sys::llama_model>,
    ctx: NonNull<sys::llama_context>,
    hook: Option<Hook>,
}

impl LoraReference {
    /// Loads `model` and puts `edits`, if any, and the LoRA at `scale` on a context of it.
    pub fn new(model: &Path, edits: &EditSet, lora: &Path, scale: f32) -> Result<Self> {
        let text = |path: &Path| -> Result<CString> {
            Ok(CString::new(
                path.to_str().context("a path that is no UTF-8")?,
            )?)
        };
        let (model, lora) = (text(model)?, text(lora)?);
        // SAFETY: the calls follow llama.h; results are checked; both strings live through
        // them. The adapter is freed with its model.
        unsafe {
            let model =
                sys::llama_model_load_from_file(model.as_ptr(), sys::llama_model_default_params());
            let model = NonNull::new(model).context("the model does not load")?;
            let mut params = sys::llama_context_default_params();
            params.n_ctx = N_CTX;
            params.n_batch = N_CTX;
            params.n_threads = 1;
            params.n_threads_batch = 1;
            let ctx = NonNull::new(sys::llama_init_from_model(model.as_ptr(), params));
            let mut this = Self {
                model,
                ctx: ctx.context("no context")?,
                hook: None,
            };
            let mut adapter = sys::llama_adapter_lora_init(model.as_ptr(), lora.as_ptr());
            ensure!(!adapter.is_null(), "the LoRA does not load");
            let mut scale = scale;
            let status = sys::llama_set_adapters_lora(
                this.ctx.as_ptr(),
                &raw mut adapter,
                1,
                &raw mut scale,
            );
            ensure!(status == 0, "the LoRA cannot be set");
            if !edits.layers.is_empty() {
                this.hook = Some(Hook::attach(this.ctx, edits)?);
            }
            Ok(this)
        }
    }

    /// As [`crate::reference::Reference::log_probabilities`].
    pub fn log_probabilities(
        &mut self,
        prompt: &[i32],
        continuation: &[i32],
    ) -> Result<Vec<Vec<f64>>> {
        let tokens: Vec<i32> = prompt.iter().chain(continuation).copied().collect();
        ensure!(tokens.len() <= N_CTX as usize, "too long");
        let first = prompt.len() - 1;
        // SAFETY: the batch has room for all tokens, of one sequence each; logits are asked
        // for from `first` on, and rows are n_vocab long.
        unsafe {
            let ctx = self.ctx.as_ptr();
            sys::llama_memory_clear(sys::llama_get_memory(ctx), true);
            let mut batch = sys::llama_batch_init(tokens.len() as i32, 0, 1);
            for (i, token) in tokens.iter().enumerate() {
                *batch.token.add(i) = *token;
                *batch.pos.add(i) = i as i32;
                *batch.n_seq_id.add(i) = 1;
                **batch.seq_id.add(i) = 0;
                *batch.logits.add(i) = i8::from(i >= first);
            }
            batch.n_tokens = tokens.len() as i32;
            let status = sys::llama_decode(ctx, batch);
            sys::llama_batch_free(batch);
            ensure!(status == 0, "llama_decode returned {status}");
            let n_vocab =
                sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.model.as_ptr()));
            let row = |i: usize| {
                let row = sys::llama_get_logits_ith(ctx, i as i32);
                log_softmax(std::slice::from_raw_parts(row, n_vocab as usize))
            };
            Ok((first..tokens.len()).map(row).collect())
        }
    }
}

impl Drop for LoraReference {
    fn drop(&mut self) {
        // SAFETY: nothing uses the context after this; the model goes last.
        unsafe {
            if let Some(hook) = self.hook.take() {
                hook.release();
            }
            sys::llama_free(self.ctx.as_ptr());
            sys::llama_model_free(self.model.as_ptr());
        }
    }
}
