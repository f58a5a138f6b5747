//! What the tests of several crates need, in one place: where files and programs lie, how a
//! program is run, and seeded models, sidecars and adapters. A helper that needs the types of
//! llama.cpp's engine or of the trainer lies with their own tests.
//!
//! What goes wrong in here fails the test: the functions panic, with a text that says why.

mod command;
mod float_copy;
mod folder;
pub mod logits;
mod lora;
mod places;
mod programs;
mod random;
pub mod sidecars;
mod split;
pub mod tiny;

pub use command::{alone, command, Cli, Finished};
pub use float_copy::{f32_base, f32_copy};
pub use folder::Folder;
pub use lora::Lora;
pub use places::{base_model, cache, llama_cpp, repository, text, variable};
pub use programs::{built, example, llama_jola, llama_jola_on, program, THREADS};
pub use random::Random;
pub use split::split;
