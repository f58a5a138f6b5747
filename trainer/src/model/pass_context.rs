//! What the layers share in one forward pass: which packed tokens see which, and how the heads
//! of each are turned.

use tch::{Device, Kind, Tensor};

use super::batch::Batch;
use super::config::Config;
use super::rotation::{Frequencies, Rotation};

/// What every layer needs to know about the tokens of a batch.
pub(crate) struct PassContext {
    /// The packed tokens in the order of the batch: the shared prefix if there is one, then
    /// the rest of each sequence.
    pub(super) spans: Vec<Span>,
    /// Whether the first span is a prefix that the others continue.
    pub(super) prefixed: bool,
    /// Rotation in most layers.
    pub(super) rotation: Rotation,
    /// Rotation in layers with a window.
    pub(super) local_rotation: Rotation,
}

/// Consecutive tokens of one sequence.
pub(super) struct Span {
    /// t, how many there are.
    pub length: i64,
    /// What they see, [t, prefix + t]: 0, or −∞ where they do not; `None` for plain causal
    /// attention without a prefix.
    pub mask: Option<Tensor>,
    /// What they see in layers with a window.
    pub local_mask: Option<Tensor>,
}

impl PassContext {
    /// For the tokens of `batch` in a model of this configuration, in format `math`.
    pub fn new(
        config: &Config,
        frequencies: &Frequencies,
        math: Kind,
        batch: &Batch,
    ) -> PassContext {
        let Batch {
            positions,
            prefix,
            lengths,
            ..
        } = batch;
        let longest = prefix + lengths.iter().copied().max().unwrap_or(0);
        let window = config.window as i64;
        let span = |prefix: i64, length: i64| {
            let visible = |window| visible(prefix, length, window, (math, positions.device()));
            let mask = (prefix > 0).then(|| visible(None));
            let local_mask = match 0 < window && window < prefix + length {
                true => Some(visible(Some(window))),
                false => mask.as_ref().map(Tensor::shallow_clone),
            };
            Span {
                length,
                mask,
                local_mask,
            }
        };
        let start = (*prefix > 0).then(|| span(0, *prefix));
        let rest = lengths.iter().map(|&length| span(*prefix, length));
        let usual = frequencies.of_context(longest as usize);
        let (rope, local_rope) = (&config.rope, &config.local_rope);
        PassContext {
            spans: start.into_iter().chain(rest).collect(),
            prefixed: *prefix > 0,
            rotation: Rotation::new(positions, rope, usual, math),
            local_rotation: Rotation::new(positions, local_rope, &frequencies.local, math),
        }
    }
}

/// What `length` tokens behind a prefix see, [length, prefix + length]: 0 for themselves
/// and what is before them (only the last `window` of these), −∞ for the rest.
pub(super) fn visible(
    prefix: i64,
    length: i64,
    window: Option<i64>,
    options: (Kind, Device),
) -> Tensor {
    let all = Tensor::ones([length, prefix + length], (Kind::Bool, options.1));
    let seen = all.tril(prefix);
    let seen = match window {
        Some(window) => seen.triu(prefix + 1 - window),
        None => seen,
    };
    Tensor::zeros_like(&seen)
        .to_kind(options.0)
        .masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
}
