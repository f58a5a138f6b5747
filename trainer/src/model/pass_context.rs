//! What the layers share in one forward pass: which packed tokens see which, and how the heads
//! of each are turned.

use tch::{Device, Kind, Tensor};

use super::batch::{Batch, Bunch};
use super::config::Config;
use super::rotation::{Frequencies, Rotation};

/// What every layer needs to know about the tokens of a batch, on each device that holds layers.
pub(crate) struct PassContexts(Vec<(Device, PassContext)>);

impl PassContexts {
    /// One for each device.
    pub fn new(
        devices: impl Iterator<Item = Device>,
        context: impl Fn(Device) -> PassContext,
    ) -> PassContexts {
        let mut contexts: Vec<(Device, PassContext)> = Vec::new();
        for device in devices {
            if contexts.iter().all(|(known, _)| *known != device) {
                contexts.push((device, context(device)));
            }
        }
        PassContexts(contexts)
    }

    /// That of a device that holds a layer.
    pub fn on(&self, device: Device) -> &PassContext {
        let found = self.0.iter().find(|(known, _)| *known == device);
        &found.expect("every layer's device has one").1
    }
}

/// What the layers of one device need to know about the tokens of a batch.
pub(crate) struct PassContext {
    /// The packed tokens in the order of the batch: of each bunch the prefix if there is one, then
    /// the rest of each sequence.
    pub(super) groups: Vec<Group>,
    /// Rotation in most layers.
    pub(super) rotation: Rotation,
    /// Rotation in layers with a window.
    pub(super) local_rotation: Rotation,
}

/// Consecutive sequences whose attention is one call.
pub(super) struct Group {
    /// Their packed tokens.
    pub rows: i64,
    /// B, how many sequences there are.
    pub sequences: i64,
    /// t, tokens of the longest.
    pub longest: i64,
    /// Where they differ in length.
    pub padding: Option<Padding>,
    /// Whether they continue the last group before them that continues none.
    pub continued: bool,
    /// What their tokens see, [t, prefix + t]: 0, or −∞ where they do not; `None` for plain
    /// causal attention without a prefix. Padding stands behind a sequence, where no token of
    /// its own looks.
    pub mask: Option<Tensor>,
    /// What they see in layers with a window.
    pub local_mask: Option<Tensor>,
}

/// Sequences of several lengths as one rectangle.
pub(super) struct Padding {
    /// [B·t] which of the group's rows stands at each place
    pub from: Tensor,
    /// [rows] the place of each of the group's rows
    pub to: Tensor,
}

impl PassContext {
    /// For the tokens of `batch` in a model of this configuration, with masks in format
    /// `attention` and rotations in `math`.
    /// `together`: all sequences behind a prefix are one group.
    pub fn new(
        config: &Config,
        frequencies: &Frequencies,
        [attention, math]: [Kind; 2],
        batch: &Batch,
        together: bool,
        device: Device,
    ) -> PassContext {
        let positions = &batch.positions.to_device(device);
        let group = |prefix: i64, lengths: &[i64]| {
            Group::new(prefix, lengths, config.window as i64, (attention, device))
        };
        let mut groups = Vec::new();
        let mut longest = 0;
        for Bunch { prefix, lengths } in &batch.bunches {
            groups.extend((*prefix > 0).then(|| group(0, &[*prefix])));
            let rest = lengths.chunks(if together { lengths.len().max(1) } else { 1 });
            groups.extend(rest.map(|lengths| group(*prefix, lengths)));
            longest = longest.max(prefix + lengths.iter().copied().max().unwrap_or(0));
        }
        let usual = frequencies.of_context(longest as usize);
        let (rope, local_rope) = (&config.rope, &config.local_rope);
        PassContext {
            groups,
            rotation: Rotation::new(positions, rope, usual, math),
            local_rotation: Rotation::new(positions, local_rope, &frequencies.local, math),
        }
    }
}

impl Group {
    /// Sequences of these lengths behind a prefix.
    fn new(prefix: i64, lengths: &[i64], window: i64, options: (Kind, Device)) -> Group {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mask = (prefix > 0).then(|| visible(prefix, longest, None, options));
        let local_mask = match 0 < window && window < prefix + longest {
            true => Some(visible(prefix, longest, Some(window), options)),
            false => mask.as_ref().map(Tensor::shallow_clone),
        };
        let uneven = lengths.iter().any(|&length| length != longest);
        Group {
            rows: lengths.iter().sum(),
            sequences: lengths.len() as i64,
            longest,
            padding: uneven.then(|| Padding::new(lengths, longest, options.1)),
            continued: prefix > 0,
            mask,
            local_mask,
        }
    }
}

impl Padding {
    fn new(lengths: &[i64], longest: i64, device: Device) -> Padding {
        let (mut from, mut to, mut start) = (Vec::new(), Vec::new(), 0);
        for (place, &length) in (0..).step_by(longest.max(1) as usize).zip(lengths) {
            // Padding repeats the sequence's first row: any row would do.
            from.extend((0..longest).map(|i| if i < length { start + i } else { start }));
            to.extend(place..place + length);
            start += length;
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Padding {
            from: tensor(&from),
            to: tensor(&to),
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
