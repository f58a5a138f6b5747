//! How a context is created: sizes, threads and the kinds of numbers, in llama.cpp's terms.

use llama_cpp_sys_2 as sys;

/// `GGML_MAX_N_THREADS` of ggml.h, past which ggml stops the process.
const MAX_THREADS: usize = 512;

/// Number type of the cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, llama.cpp's default.
    F16,
    /// bfloat16, a 32-bit float without its lower half.
    Bf16,
    /// 8-bit blocks; for values only with flash attention.
    Q8_0,
}

impl CacheType {
    /// ggml's number for it.
    pub(super) fn raw(self) -> sys::ggml_type {
        match self {
            Self::F32 => sys::GGML_TYPE_F32,
            Self::F16 => sys::GGML_TYPE_F16,
            Self::Bf16 => sys::GGML_TYPE_BF16,
            Self::Q8_0 => sys::GGML_TYPE_Q8_0,
        }
    }
}

/// Whether attention is computed by one fused operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashAttention {
    /// llama.cpp decides; never with keys and values in 32-bit floats, which its fused
    /// kernel would round to 16.
    Auto,
    /// Step by step, on every device.
    Off,
    /// By the fused operation, or the context cannot be created.
    On,
}

/// How to create a context; the names are llama.cpp's.
#[derive(Clone, Debug)]
pub struct ContextParams {
    /// Most tokens of a sequence; 0: as many as the model was trained for.
    pub n_ctx: u32,
    /// Tokens held of all sequences together, those that sequences share counted once;
    /// 0: `n_ctx` for each.
    pub n_cells: u32,
    /// Most tokens in one call of [`Context::decode`](crate::Context::decode).
    pub n_batch: u32,
    /// Most tokens computed at once.
    pub n_ubatch: u32,
    /// Sequences that can be under way at once.
    pub n_seq_max: u32,
    /// Threads, at most ggml's 512; 0: one per physical core.
    pub n_threads: u32,
    /// Type of cached keys.
    pub type_k: CacheType,
    /// Type of cached values.
    pub type_v: CacheType,
    /// Whether attention is one fused operation.
    pub flash_attention: FlashAttention,
}

impl Default for ContextParams {
    fn default() -> Self {
        Self {
            n_ctx: 4096,
            n_cells: 0,
            n_batch: 2048,
            n_ubatch: 512,
            n_seq_max: 1,
            n_threads: 0,
            type_k: CacheType::F16,
            type_v: CacheType::F16,
            flash_attention: FlashAttention::Auto,
        }
    }
}

impl ContextParams {
    /// The number of threads, with 0 resolved.
    pub(super) fn threads(&self) -> usize {
        let threads = match self.n_threads {
            0 => physical_cores(),
            n => n as usize,
        };
        threads.min(MAX_THREADS)
    }
}

/// Cores without their hyper-threads where the system tells, else the threads it offers.
fn physical_cores() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let siblings = |cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings");
        std::fs::read_to_string(path).ok()
    };
    let cores: std::collections::BTreeSet<String> = (0..threads).filter_map(siblings).collect();
    if cores.is_empty() {
        threads
    } else {
        cores.len()
    }
}
