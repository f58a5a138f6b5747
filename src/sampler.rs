//! Choosing the next token, by llama.cpp's own samplers.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::context::Context;
use crate::model::Token;
use crate::native::{self, ffi};
use crate::Error;

/// `LLAMA_DEFAULT_SEED` of llama.h: take a random seed.
const RANDOM_SEED: u32 = u32::MAX;

/// How to choose; the names and defaults are llama.cpp's.
#[derive(Clone, Debug)]
pub struct SamplerParams {
    /// Temperature; 0 or less takes the most likely token.
    pub temp: f32,
    /// Keep the k most likely tokens; 0: all.
    pub top_k: i32,
    /// Keep the most likely tokens that together reach this probability.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one.
    pub min_p: f32,
    /// Seed of the random choice.
    pub seed: u32,
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            temp: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            seed: RANDOM_SEED,
        }
    }
}

impl SamplerParams {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self {
            temp: 0.0,
            ..Self::default()
        }
    }
}

/// A chain of llama.cpp samplers.
#[derive(Debug)]
pub struct Sampler {
    chain: NonNull<sys::llama_sampler>,
}

impl Sampler {
    /// Builds the chain top-k, top-p, min-p, temperature, choice; or plain greedy.
    pub fn new(params: &SamplerParams) -> Self {
        // SAFETY: the constructors have no preconditions; the chain takes ownership.
        unsafe {
            let chain = sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params());
            if params.temp <= 0.0 {
                sys::llama_sampler_chain_add(chain, sys::llama_sampler_init_greedy());
            } else {
                for sampler in [
                    sys::llama_sampler_init_top_k(params.top_k),
                    sys::llama_sampler_init_top_p(params.top_p, 1),
                    sys::llama_sampler_init_min_p(params.min_p, 1),
                    sys::llama_sampler_init_temp(params.temp),
                    sys::llama_sampler_init_dist(params.seed),
                ] {
                    sys::llama_sampler_chain_add(chain, sampler);
                }
            }
            Self {
                chain: NonNull::new(chain).expect("llama.cpp allocates a sampler chain"),
            }
        }
    }

    /// Chooses from the logits of token `index` of the context's last batch (-1: the last).
    ///
    /// # Errors
    /// [`Error::NoLogits`], where llama.cpp would stop the process, and [`Error::Exception`].
    pub fn sample(&mut self, context: &mut Context, index: i32) -> Result<Token, Error> {
        if context.find_logits(index).is_none() {
            return Err(Error::NoLogits { index });
        }
        native::guarded("llama_sampler_sample", 0, |token| {
            // SAFETY: both are alive, and the index has logits.
            unsafe { ffi::jola_sample(self.chain.as_ptr(), context.as_ptr(), index, token) }
        })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: created in `new`, freed once, with the samplers it owns.
        unsafe { sys::llama_sampler_free(self.chain.as_ptr()) };
    }
}
