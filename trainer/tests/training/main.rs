//! Training on small seeded random models: gradients, packing, determinism, sidecars, and
//! the command line with good and bad input.

#[allow(dead_code)] // shared with the architecture tests
#[path = "../architectures/decoder.rs"]
mod decoder;
#[allow(dead_code)] // shared with the architecture tests
#[path = "../architectures/tiny.rs"]
mod tiny;

mod cli;
mod dry_run;
mod gradients;
mod kept;
mod kill;
mod methods;
mod packing;
mod resume;
mod runs;
mod support;
