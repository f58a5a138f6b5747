//! Training on small seeded random models: gradients, packing, determinism, sidecars, and
//! the command line with good and bad input.

mod cli;
mod divergence;
mod dry_run;
mod gradients;
mod kept;
mod kill;
mod methods;
mod packing;
mod precision;
mod restart;
mod resume;
mod runs;
mod support;
