//! Both programs as users have them, one against the other and with the same bad input, and
//! what the documentation shows of them. `make test` builds the programs first.

mod agreement;
mod bad_input;
mod docs;
mod help;
mod lora;
mod manuals;
mod outputs;
mod parity;
mod programs;
mod quantised;
mod sidecar_files;
mod swapped;
mod trainer;
mod training_notes;
mod validation;
