//! The reference model: what the base model computes, written to be read beside llama.cpp's
//! graph, and what may change in each of its layers.
//!
//! `config` (with `keys` and `rope`) says what the base is like, `loading` reads its weights,
//! `decoder` computes logits of a `batch` with `attention`, `feed_forward` and, in each layer,
//! a `change`: an edit of head outputs and low-rank changes of matrices.

mod arithmetic;
mod attention;
mod batch;
mod blocks;
mod change;
mod config;
mod decoder;
mod devices;
mod feed_forward;
mod filling;
mod head_edit;
mod keys;
mod layer;
mod linear;
mod loading;
mod low_rank;
mod pass_context;
mod precision;
mod rope;
mod rotation;
mod tensor_reader;
mod weight;

pub(crate) use batch::{bunch_passes, fitting, passes, BatchSize};
pub use batch::{Batch, Bunch, Reference, Sequence};
pub use change::LayerChange;
pub use config::{Config, ExpertCount, LayerConfig};
pub(crate) use decoder::{rows_at_once, Head};
pub use decoder::{Model, Output};
pub use devices::Devices;
pub use feed_forward::FeedForward;
pub use head_edit::HeadEdit;
pub use layer::Layer;
pub(crate) use layer::{adaptable_matrices, AdaptableMatrix};
pub use linear::Linear;
pub use low_rank::{JoinedMatrix, LowRank, LowRankChanges};
pub(crate) use precision::bytes_of;
pub use precision::Precision;
pub use rope::Rope;
pub use rotation::Frequencies;
pub(crate) use weight::stays_in_blocks;
pub use weight::Weight;
