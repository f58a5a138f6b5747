//! JoLA edits in llama.cpp builds that others compiled.
//!
//! As `libjola.so` this crate is loaded before a program's llama.cpp. It stands in for a
//! handful of functions: `ggml_mul_mat`, which libllama calls for every product of a graph
//! that it builds, and the few llama.cpp functions that tell whose graph is being built.
//! When a product is that of a layer's head outputs with the output projection, the edited
//! head outputs take their place. Everything else goes to the functions of the host.
//!
//! - [`request`]: which edits are wanted, from `LLAMA_JOLA` or from the C API;
//! - [`resolve`], [`host`], [`shape`]: the host's functions, buffers and metadata;
//! - [`operand`]: which products of a graph concern a layer's edit;
//! - [`usage`]: whether they are used as they were trained;
//! - [`adapters`], [`rows`]: sidecars that the host has loaded where llama.cpp takes a LoRA;
//! - [`sequences`], [`batch`]: under which edits cached keys and values were computed;
//! - [`state`], [`change`], [`cells`], [`restored`]: the edits and the cache of one context;
//! - [`control_vector`]: what makes llama.cpp build graphs anew;
//! - [`contexts`]: the contexts of the process;
//! - `interpose`: the functions that stand in for the host's;
//! - [`cb_eval`]: the slower way for programs into which nothing can be loaded;
//! - [`ffi`]: the C API, `jola.h`.
//!
//! It links neither llama.cpp nor libtorch.

pub mod adapters;
pub mod batch;
pub mod cb_eval;
pub mod cells;
pub mod change;
pub mod contexts;
pub mod control_vector;
pub mod ffi;
pub mod host;
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod interpose;
pub mod log;
pub mod operand;
pub mod request;
pub mod resolve;
pub mod restored;
pub mod rows;
pub mod sequences;
pub mod shape;
pub mod state;
pub mod usage;
