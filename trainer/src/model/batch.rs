//! Packing: the sequences of a batch laid end to end, without padding, and what sequences
//! begin with together only once.
//!
//! The prompts of a task mostly share their first part (a template, an instruction, a list
//! of labels), and the answers that are compared share their whole prompt. In a causal model what
//! comes later changes nothing there, so that part is computed once for all of them, forwards and
//! backwards. The result is the same.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

/// Shared prefixes of fewer tokens are not worth the wider attention of what follows.
const SHORTEST_PREFIX: usize = 8;

/// A tokenised row: what is given and what is learned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// All tokens, at least one.
    pub tokens: Vec<i64>,
    /// The parts of `tokens` that the loss is on, ascending, apart and at least one. All
    /// before the first is the prompt.
    pub targets: Vec<Range<usize>>,
}

impl Sequence {
    /// A prompt of `n_prompt` tokens and a response.
    pub fn new(tokens: Vec<i64>, n_prompt: usize) -> Sequence {
        let response = n_prompt..tokens.len();
        Sequence {
            tokens,
            targets: vec![response],
        }
    }

    /// How many tokens come before the first that the loss is on.
    pub fn n_prompt(&self) -> usize {
        self.targets
            .first()
            .map_or(self.tokens.len(), |target| target.start)
    }

    /// How many tokens come before the one that predicts the first that the loss is on.
    pub(crate) fn n_unselected(&self) -> usize {
        self.n_prompt().max(1) - 1
    }

    /// The places of the tokens that the loss is on; the first token of a sequence cannot be
    /// predicted.
    pub fn target_places(&self) -> impl Iterator<Item = usize> + '_ {
        self.targets
            .iter()
            .flat_map(|target| target.start.max(1)..target.end)
    }

    /// How many tokens the loss is on.
    pub fn n_targets(&self) -> usize {
        self.target_places().count()
    }

    /// How many tokens it begins with as another does.
    pub(crate) fn begins_like(&self, other: &Sequence) -> usize {
        let pairs = self.tokens.iter().zip(&other.tokens);
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// How many tokens predict something, or are looked back at by one that does.
    pub(crate) fn n_predicting(&self) -> usize {
        self.target_places().last().unwrap_or(0)
    }
}

/// Sequences of a batch that follow each other and begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bunch {
    /// P, tokens that all of them begin with and that are computed once; 0 without.
    pub prefix: i64,
    /// What each has beyond the prefix; of all bunches, P and their sum make T.
    pub lengths: Vec<i64>,
}

/// What the unedited model says at places of a batch that a change is to leave alone.
#[derive(Debug)]
pub struct Reference {
    /// [K, d] its residual stream behind the last layer, at the last K of the batch's rows
    pub stream: Tensor,
    /// What the divergence from it counts for beside the loss.
    pub weight: f64,
}

/// Sequences ready for one forward pass. T tokens in all, R rows whose logits are wanted.
#[derive(Debug)]
pub struct Batch {
    /// [T] token ids: of each bunch the prefix, then the rest of each sequence
    pub tokens: Tensor,
    /// [T] position of each token in its own sequence
    pub positions: Tensor,
    /// Sequences that share a prefix, in order; one bunch where all do.
    pub bunches: Vec<Bunch>,
    /// [R] rows of the packed tokens whose logits are wanted
    pub rows: Tensor,
    /// The token that follows each of `rows`, of the first where further ones are only compared
    /// with `reference`; [0] without targets
    pub targets: Tensor,
    /// What the last of `rows` are compared with.
    pub reference: Option<Reference>,
    /// A layer and the residual stream [T, d] before it, where it is known already
    pub entry: Option<(usize, Tensor)>,
}

impl Batch {
    /// Packs training sequences: `rows` are the positions that predict a target. What comes
    /// behind the last of them predicts nothing and is left out.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a Sequence>, device: Device) -> Batch {
        Batch::pack_bunches([sequences], device)
    }

    /// [`pack`](Self::pack) of sequences in bunches, each of which shares a prefix of its own.
    pub fn pack_bunches<'a, B>(bunches: impl IntoIterator<Item = B>, device: Device) -> Batch
    where
        B: IntoIterator<Item = &'a Sequence>,
    {
        let mut packer = Packer::default();
        for bunch in bunches {
            let sequences: Vec<&Sequence> = bunch.into_iter().collect();
            packer.push_bunch(&sequences, |_| &[]);
        }
        packer.finish(device)
    }

    /// [`pack`](Self::pack), with the rows of further places of each sequence, all before its
    /// last target, behind those that predict a target.
    pub(crate) fn pack_with(sequences: &[&Sequence], places: &[&[usize]], device: Device) -> Batch {
        let mut packer = Packer::default();
        packer.push_bunch(sequences, |index| places[index]);
        packer.finish(device)
    }

    /// One sequence with every row selected and no targets.
    pub fn all_rows(tokens: &[i64], device: Device) -> Batch {
        let mut packer = Packer::default();
        packer.begin(0);
        packer.push(tokens, 0..tokens.len(), &[]);
        packer.finish(device)
    }

    /// Tokens of all sequences, each with its prefix.
    pub fn n_tokens(&self) -> usize {
        let tokens = self.bunches.iter().map(|bunch| {
            bunch.lengths.iter().sum::<i64>() + bunch.prefix * bunch.lengths.len() as i64
        });
        tokens.sum::<i64>() as usize
    }

    /// R, the tokens that the loss is on.
    pub fn n_rows(&self) -> usize {
        self.rows.numel()
    }
}

/// Size of a packed batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSize {
    /// T, tokens that are computed: what all sequences begin with counts once.
    pub tokens: usize,
    /// Tokens of all sequences.
    pub context: usize,
    /// R, tokens that the loss is on.
    pub targets: usize,
    /// Pairs of a token and one that attention compares it with, masked ones among them.
    pub pairs: usize,
}

impl BatchSize {
    /// Of these sequences together.
    pub fn of<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> BatchSize {
        let sequences: Vec<&Sequence> = sequences.into_iter().collect();
        let prefix = shared_prefix(&sequences);
        let mut size = BatchSize {
            tokens: prefix,
            pairs: prefix * prefix,
            ..BatchSize::default()
        };
        for sequence in sequences {
            let whole = sequence.n_predicting();
            size.tokens += whole - prefix;
            size.context += whole;
            size.targets += sequence.n_targets();
            size.pairs += (whole - prefix) * whole;
        }
        size
    }
}

/// How many tokens all of the sequences begin with, as far as no row is selected there.
fn shared_prefix(sequences: &[&Sequence]) -> usize {
    let [first, others @ ..] = sequences else {
        return 0;
    };
    let mut shared = first.n_unselected();
    for other in others {
        let same = first.begins_like(other);
        shared = shared.min(same).min(other.n_unselected());
    }
    if others.is_empty() || shared < SHORTEST_PREFIX {
        return 0;
    }
    shared
}

/// Tokens of one forward pass without a gradient.
const PASS_TOKENS: usize = 2048;

/// The numbers of the sequences of each forward pass without a gradient, in order.
pub(crate) fn passes(sequences: &[Sequence]) -> impl Iterator<Item = Range<usize>> {
    let sizes = sequences.iter().map(|sequence| sequence.tokens.len());
    passes_of(sizes.collect())
}

/// The same of bunches.
pub(crate) fn bunch_passes(bunches: &[&[Sequence]]) -> impl Iterator<Item = Range<usize>> {
    let sizes = bunches.iter().map(|bunch| BatchSize::of(*bunch).tokens);
    passes_of(sizes.collect())
}

/// The same of things of so many tokens.
fn passes_of(sizes: Vec<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = &sizes[start..];
        let end = start + fitting(rest.iter().copied(), PASS_TOKENS).min(rest.len());
        let pass = std::mem::replace(&mut start, end)..end;
        (!pass.is_empty()).then_some(pass)
    })
}

/// How many of the first things, of so many tokens each, have at most `tokens` tokens together; at
/// least one.
pub(crate) fn fitting(sizes: impl Iterator<Item = usize>, tokens: usize) -> usize {
    let mut sum = 0;
    let fits = sizes.take_while(|size| {
        sum += size;
        sum <= tokens
    });
    fits.count().max(1)
}

#[derive(Default)]
struct Packer {
    bunches: Vec<Bunch>,
    tokens: Vec<i64>,
    positions: Vec<i64>,
    rows: Vec<i64>,
    targets: Vec<i64>,
    /// Rows behind all others.
    further: Vec<i64>,
    /// Where the prefix of the bunch that was begun last is.
    prefix_start: usize,
}

impl Packer {
    /// Begins a bunch, whose sequences share a prefix of this length.
    fn begin(&mut self, prefix: usize) {
        self.prefix_start = self.tokens.len();
        self.bunches.push(Bunch {
            prefix: prefix as i64,
            lengths: Vec::new(),
        });
    }

    /// Adds training sequences as a bunch, with the rows of `further` places of each.
    fn push_bunch<'a>(&mut self, sequences: &[&Sequence], further: impl Fn(usize) -> &'a [usize]) {
        self.begin(shared_prefix(sequences));
        for (index, sequence) in sequences.iter().enumerate() {
            let places = || sequence.target_places();
            self.push(
                &sequence.tokens[..sequence.n_predicting()],
                places().map(|place| place - 1),
                further(index),
            );
            self.targets
                .extend(places().map(|place| sequence.tokens[place]));
        }
    }

    /// Adds a sequence of which some rows are selected to the bunch that was begun last.
    fn push(&mut self, tokens: &[i64], rows: impl Iterator<Item = usize>, further: &[usize]) {
        let bunch = self.bunches.last_mut().expect("a bunch was begun");
        let prefix = bunch.prefix as usize;
        let start = match bunch.lengths.is_empty() {
            true => 0,
            false => prefix,
        };
        let shift = self.tokens.len() as i64 - start as i64;
        self.tokens.extend_from_slice(&tokens[start..]);
        self.positions.extend(start as i64..tokens.len() as i64);
        bunch.lengths.push((tokens.len() - prefix) as i64);
        self.rows.extend(rows.map(|row| row as i64 + shift));
        let in_prefix = self.prefix_start as i64;
        self.further.extend(further.iter().map(|&row| {
            let start = if row < prefix { in_prefix } else { shift };
            row as i64 + start
        }));
    }

    /// All numbers go to the device in one copy, which nothing waits for: what is not pinned is
    /// staged by the driver.
    fn finish(self, device: Device) -> Batch {
        let rows = [self.rows, self.further].concat();
        let lists = [self.tokens, self.positions, rows, self.targets];
        let lengths = lists.each_ref().map(|list| list.len() as i64);
        let all = Tensor::from_slice(&lists.concat());
        let all = all.to_device_(device, Kind::Int64, true, false);
        let mut parts = all.split_with_sizes(lengths, 0).into_iter();
        let mut part = || parts.next().expect("four parts");
        Batch {
            tokens: part(),
            positions: part(),
            rows: part(),
            targets: part(),
            bunches: self.bunches,
            reference: None,
            entry: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bunch(prefix: i64, lengths: &[i64]) -> Bunch {
        Bunch {
            prefix,
            lengths: lengths.to_vec(),
        }
    }

    #[test]
    fn packs_without_padding_and_selects_what_predicts_the_response() {
        let a = Sequence::new(vec![5, 6, 7, 8], 2);
        let b = Sequence::new(vec![9, 10], 1);
        let batch = Batch::pack([&a, &b], Device::Cpu);
        let list = |t: &Tensor| Vec::<i64>::try_from(t).unwrap();
        assert_eq!(list(&batch.tokens), [5, 6, 7, 9]);
        assert_eq!(list(&batch.positions), [0, 1, 2, 0]);
        assert_eq!(batch.bunches, [bunch(0, &[3, 1])]);
        assert_eq!(list(&batch.rows), [1, 2, 3]);
        assert_eq!(list(&batch.targets), [7, 8, 10]);
        assert_eq!((batch.n_tokens(), batch.n_rows()), (4, 3));
        let size = BatchSize::of([&a, &b]);
        assert_eq!((size.tokens, size.context, size.targets), (4, 4, 3));
        assert_eq!(size.pairs, 9 + 1);
    }

    #[test]
    fn an_empty_prompt_predicts_from_its_first_token_on() {
        let a = Sequence::new(vec![5, 6, 7], 0);
        let batch = Batch::pack([&a], Device::Cpu);
        assert_eq!(Vec::<i64>::try_from(&batch.targets).unwrap(), [6, 7]);
    }

    #[test]
    fn the_loss_is_on_every_turn_that_is_learned_and_nothing_behind_the_last_is_computed() {
        let turns = Sequence {
            tokens: (10..20).collect(),
            targets: vec![2..4, 6..8],
        };
        let batch = Batch::pack([&turns], Device::Cpu);
        let list = |t: &Tensor| Vec::<i64>::try_from(t).unwrap();
        assert_eq!(list(&batch.tokens), [10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(list(&batch.rows), [1, 2, 5, 6]);
        assert_eq!(list(&batch.targets), [12, 13, 16, 17]);
        assert_eq!((turns.n_prompt(), turns.n_targets()), (2, 4));
    }

    #[test]
    fn a_shared_prefix_is_packed_once() {
        let start: Vec<i64> = (20..30).collect();
        let row = |rest: &[i64], n_prompt| Sequence::new([&start, rest].concat(), n_prompt);
        let batch = Batch::pack([&row(&[1, 2, 3], 12), &row(&[4, 5], 11)], Device::Cpu);
        let list = |t: &Tensor| Vec::<i64>::try_from(t).unwrap();
        assert_eq!(batch.bunches, [bunch(10, &[2, 1])]);
        assert_eq!(list(&batch.tokens), [&start[..], &[1, 2, 4]].concat());
        assert_eq!(
            list(&batch.positions),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 10]
        );
        assert_eq!(list(&batch.rows), [11, 12]);
        assert_eq!(list(&batch.targets), [3, 5]);
        assert_eq!(batch.n_tokens(), 23);
        let size = BatchSize::of([&row(&[1, 2, 3], 12), &row(&[4, 5], 11)]);
        assert_eq!((size.tokens, size.context, size.targets), (13, 23, 2));
        assert_eq!(size.pairs, 10 * 10 + 2 * 12 + 11);
    }

    #[test]
    fn each_bunch_has_a_prefix_of_its_own() {
        let [a, b]: [Vec<i64>; 2] = [(20..30).collect(), (40..49).collect()];
        let row =
            |start: &[i64], rest: &[i64]| Sequence::new([start, rest].concat(), start.len() + 1);
        let first = [row(&a, &[1, 2]), row(&a, &[1, 3])];
        let second = [row(&b, &[4, 5]), row(&b, &[4, 6, 7])];
        let bunches = [&first[..], &second[..]];
        let batch = Batch::pack_bunches(bunches, Device::Cpu);
        assert_eq!(batch.bunches, [bunch(10, &[1, 1]), bunch(9, &[1, 2])]);
        let list = |t: &Tensor| Vec::<i64>::try_from(t).unwrap();
        assert_eq!(
            list(&batch.tokens),
            [&a[..], &[1, 1], &b, &[4, 4, 6]].concat()
        );
        assert_eq!(list(&batch.rows), [10, 11, 21, 22, 23]);
        assert_eq!(list(&batch.targets), [2, 3, 5, 6, 7]);
        assert_eq!(list(&batch.positions)[21..], [9, 9, 10]);
        assert_eq!(batch.n_tokens(), 11 + 11 + 10 + 11);
        let first = bunch_passes(&bunches).next();
        assert_eq!(first, Some(0..2));
    }

    #[test]
    fn further_rows_come_last_wherever_their_tokens_are_packed() {
        let start: Vec<i64> = (20..30).collect();
        let row = |rest: &[i64], n_prompt| Sequence::new([&start, rest].concat(), n_prompt);
        let rows = [row(&[1, 2, 3, 4], 13), row(&[5, 6, 7], 12)];
        let batch = Batch::pack_with(&[&rows[0], &rows[1]], &[&[9, 10], &[3, 10]], Device::Cpu);
        let list = |t: &Tensor| Vec::<i64>::try_from(t).unwrap();
        assert_eq!(list(&batch.tokens), [&start[..], &[1, 2, 3, 5, 6]].concat());
        assert_eq!(list(&batch.rows), [12, 14, 9, 10, 3, 13]);
        assert_eq!(list(&batch.targets), [4, 7]);
    }

    #[test]
    fn passes_hold_as_much_as_fits() {
        let of = |sizes: &[usize]| passes_of(sizes.to_vec()).collect::<Vec<_>>();
        assert!(of(&[]).is_empty());
        let half = PASS_TOKENS / 2;
        assert_eq!(of(&[half, half, 1, 3 * half, 5]), [0..2, 2..3, 3..4, 4..5]);
    }

    #[test]
    fn a_prefix_ends_before_the_first_selected_row() {
        let row = |n_prompt| Sequence::new((0..20).collect(), n_prompt);
        assert_eq!(shared_prefix(&[&row(15), &row(12)]), 11);
        assert_eq!(shared_prefix(&[&row(8), &row(15)]), 0, "too short");
        assert_eq!(shared_prefix(&[&row(15)]), 0, "nobody to share with");
        assert_eq!(shared_prefix(&[]), 0);
    }
}
