//! The program as users have it, and the library as other programs have it, on a real model,
//! which `make test` provides. The trainer is not needed here: what takes both programs is
//! tested in e2e/.

mod bake;
mod base;
mod bench;
mod cli;
mod compiler;
mod describe;
mod examples;
mod hook;
mod hybrid;
mod import;
mod likelihood;
mod patch;
mod readme;
mod scheduler;
mod server;
mod sets;
mod soak;
mod soundness;
