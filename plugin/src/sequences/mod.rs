//! Under which edits the cells of each sequence were computed, and from which tokens.
//!
//! Keys and values of one set of edits are wrong for another, and llama.cpp's cache does not
//! know of edits. So each sequence of a context carries the tag of what its cells were computed
//! under. It also carries their tokens, with which they can be computed anew. What a host does
//! with its cache is followed here; where that is not known exactly, the tag is none, which
//! equals no other.

mod trailer;

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::request::Digest;
pub use trailer::{len_of, split, trailer, FOOTER};

/// Names a set of edits and adapters with their strengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub [u8; 16]);

impl Tag {
    /// The tag of these, which are told apart by their contents, in this order. What has
    /// strength 0 does not count.
    pub fn of<'a>(parts: impl IntoIterator<Item = (&'a Digest, f32)>) -> Self {
        let mut hash = Sha256::new();
        for (digest, strength) in parts {
            if strength != 0.0 {
                hash.update(digest);
                hash.update(strength.to_le_bytes());
            }
        }
        let mut tag = [0; 16];
        tag.copy_from_slice(&hash.finalize()[..16]);
        Self(tag)
    }
}

/// A token at its position.
pub type Placed = (i32, i32);

/// The cells of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cells {
    /// What all of them were computed under, if that is known.
    pub tag: Option<Tag>,
    /// Their tokens in the order of positions, unless an input was no token.
    pub tokens: Option<Vec<Placed>>,
}

impl Cells {
    /// Cells of which nothing is known.
    pub const FOREIGN: Self = Self {
        tag: None,
        tokens: None,
    };

    /// The tokens, if they are all that the sequence holds up to position `last`.
    pub fn all_tokens(&self, last: i32) -> Option<&[Placed]> {
        let tokens = self.tokens.as_deref()?;
        let (first, _) = tokens.first()?;
        let in_turn = tokens
            .iter()
            .zip(*first..)
            .all(|((position, _), expected)| *position == expected);
        (in_turn && tokens.last()?.0 == last).then_some(tokens)
    }

    /// Puts the cells of `other` beside these.
    fn join(&mut self, other: Self) {
        if self.tag != other.tag {
            self.tag = None;
        }
        self.tokens = match (self.tokens.take(), other.tokens) {
            (Some(mut tokens), Some(more)) => {
                tokens.extend(more);
                tokens.sort_unstable();
                tokens.dedup_by_key(|(position, _)| *position);
                Some(tokens)
            }
            _ => None,
        };
    }
}

/// The sequences of a context that have cells.
#[derive(Debug, Default)]
pub struct Sequences(BTreeMap<i32, Cells>);

/// The positions from `p0` on and below `p1`, as llama.cpp means them.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    from: i32,
    to: i32,
}

impl Range {
    /// Negative ends are open.
    pub fn new(p0: i32, p1: i32) -> Self {
        Self {
            from: p0.max(0),
            to: if p1 < 0 { i32::MAX } else { p1 },
        }
    }

    fn is_all(self) -> bool {
        self.from == 0 && self.to == i32::MAX
    }

    fn contains(self, position: i32) -> bool {
        (self.from..self.to).contains(&position)
    }
}

impl Sequences {
    /// The cells of a sequence.
    pub fn get(&self, sequence: i32) -> Option<&Cells> {
        self.0.get(&sequence)
    }

    /// All sequences with cells.
    pub fn iter(&self) -> impl Iterator<Item = (i32, &Cells)> {
        self.0.iter().map(|(sequence, cells)| (*sequence, cells))
    }

    /// Puts cells in the place of those that a sequence had.
    pub fn insert(&mut self, sequence: i32, cells: Cells) {
        self.0.insert(sequence, cells);
    }

    /// Every sequence is empty.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Follows `llama_memory_seq_rm`; a negative sequence is every one.
    pub fn remove(&mut self, sequence: i32, range: Range) {
        self.0.retain(|of, cells| {
            if sequence >= 0 && *of != sequence {
                return true;
            }
            if range.is_all() {
                return false;
            }
            match &mut cells.tokens {
                None => true,
                Some(tokens) => {
                    tokens.retain(|(position, _)| !range.contains(*position));
                    !tokens.is_empty()
                }
            }
        });
    }

    /// Follows `llama_memory_seq_cp`.
    pub fn copy(&mut self, from: i32, to: i32, range: Range) {
        let Some(source) = self.0.get(&from).filter(|_| from != to) else {
            return;
        };
        let mut copied = source.clone();
        if !range.is_all() {
            if let Some(tokens) = &mut copied.tokens {
                tokens.retain(|(position, _)| range.contains(*position));
                if tokens.is_empty() {
                    return;
                }
            }
        }
        match self.0.get_mut(&to) {
            Some(cells) => cells.join(copied),
            None => self.insert(to, copied),
        }
    }

    /// Follows `llama_memory_seq_keep`.
    pub fn keep(&mut self, sequence: i32) {
        self.0.retain(|of, _| *of == sequence);
    }

    /// Follows functions that move cells to other positions.
    pub fn move_positions(&mut self, sequence: i32, range: Range, to: impl Fn(i32) -> i32) {
        for (of, cells) in &mut self.0 {
            if sequence >= 0 && *of != sequence {
                continue;
            }
            let Some(tokens) = &mut cells.tokens else {
                continue;
            };
            for (position, _) in tokens.iter_mut() {
                if range.contains(*position) {
                    *position = to(*position);
                }
            }
            // llama.cpp drops what comes to lie before the beginning.
            tokens.retain(|(position, _)| *position >= 0);
            tokens.sort_unstable();
        }
    }

    /// A token (`None`: another input) was computed at `position` of a sequence.
    pub fn add(&mut self, sequence: i32, position: i32, token: Option<i32>, tag: Tag) {
        let cells = self.0.entry(sequence).or_insert_with(|| Cells {
            tag: Some(tag),
            tokens: Some(Vec::new()),
        });
        if cells.tag != Some(tag) {
            cells.tag = None;
        }
        match (token, &mut cells.tokens) {
            (Some(token), Some(tokens)) => tokens.push((position, token)),
            _ => cells.tokens = None,
        }
    }

    /// Brings a sequence in line with its last position in llama.cpp, which is negative for an
    /// empty one.
    pub fn reconcile(&mut self, sequence: i32, last: i32) {
        if last < 0 {
            self.0.remove(&sequence);
            return;
        }
        let cells = self.0.entry(sequence).or_insert(Cells::FOREIGN);
        if let Some(tokens) = &mut cells.tokens {
            tokens.retain(|(position, _)| *position <= last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: (i32, i32) = (-1, -1);

    fn tag(byte: u8) -> Tag {
        Tag([byte; 16])
    }

    fn range((p0, p1): (i32, i32)) -> Range {
        Range::new(p0, p1)
    }

    /// A sequence with the tokens 10, 11, … at the positions 0, 1, ….
    fn filled(sequences: &mut Sequences, sequence: i32, count: i32, tag: Tag) {
        for position in 0..count {
            sequences.add(sequence, position, Some(10 + position), tag);
        }
    }

    fn tokens(sequences: &Sequences, sequence: i32) -> Vec<Placed> {
        let cells = sequences.get(sequence).expect("cells");
        cells.tokens.clone().expect("tokens")
    }

    #[test]
    fn a_tag_follows_content_strength_and_order() {
        let (a, b) = ([1; 32], [2; 32]);
        let of = |parts: &[(&Digest, f32)]| Tag::of(parts.iter().copied());
        assert_eq!(of(&[(&a, 1.0), (&b, 0.0)]), of(&[(&a, 1.0)]));
        assert_eq!(of(&[(&b, 0.0)]), of(&[]));
        assert_ne!(of(&[(&a, 1.0)]), of(&[]));
        assert_ne!(of(&[(&a, 1.0)]), of(&[(&a, 0.5)]));
        assert_ne!(of(&[(&a, 1.0)]), of(&[(&a, -1.0)]));
        assert_ne!(of(&[(&a, 1.0), (&b, 1.0)]), of(&[(&b, 1.0), (&a, 1.0)]));
    }

    #[test]
    fn cells_of_two_tags_have_none() {
        let mut sequences = Sequences::default();
        filled(&mut sequences, 0, 2, tag(1));
        sequences.add(0, 2, Some(12), tag(2));
        assert_eq!(sequences.get(0).unwrap().tag, None);
        // Also when they come by copying.
        filled(&mut sequences, 1, 2, tag(1));
        filled(&mut sequences, 2, 2, tag(2));
        sequences.copy(1, 2, range((0, 1)));
        assert_eq!(sequences.get(2).unwrap().tag, None);
        sequences.copy(1, 3, range(ALL));
        assert_eq!(sequences.get(3), sequences.get(1));
    }

    #[test]
    fn removal_ends_where_the_range_does() {
        let mut sequences = Sequences::default();
        filled(&mut sequences, 0, 4, tag(1));
        filled(&mut sequences, 1, 4, tag(1));
        sequences.remove(0, range((1, 3)));
        assert_eq!(tokens(&sequences, 0), [(0, 10), (3, 13)]);
        assert!(sequences.get(0).unwrap().all_tokens(3).is_none());
        sequences.remove(-1, range((3, -1)));
        assert_eq!(tokens(&sequences, 0), [(0, 10)]);
        assert_eq!(tokens(&sequences, 1).len(), 3);
        sequences.remove(1, range((0, -1)));
        assert!(sequences.get(1).is_none());
        sequences.remove(0, range((0, 1)));
        assert!(sequences.get(0).is_none());
    }

    #[test]
    fn what_is_not_known_stays_unknown_until_it_is_gone() {
        let mut sequences = Sequences::default();
        sequences.add(0, 0, None, tag(1));
        sequences.add(0, 1, Some(11), tag(1));
        assert_eq!(sequences.get(0).unwrap().tokens, None);
        sequences.remove(0, range((1, -1)));
        assert!(sequences.get(0).is_some());
        sequences.remove(0, range(ALL));
        assert!(sequences.get(0).is_none());
        // Cells that nobody told of.
        sequences.reconcile(5, 3);
        assert_eq!(sequences.get(5), Some(&Cells::FOREIGN));
    }

    #[test]
    fn a_context_shift_moves_tokens() {
        let mut sequences = Sequences::default();
        filled(&mut sequences, 0, 6, tag(1));
        sequences.remove(0, range((2, 4)));
        sequences.move_positions(0, range((4, 6)), |position| position - 2);
        let expected = [(0, 10), (1, 11), (2, 14), (3, 15)];
        assert_eq!(tokens(&sequences, 0), expected);
        let cells = sequences.get(0).unwrap();
        assert_eq!(cells.all_tokens(3), Some(&expected[..]));
        assert_eq!(cells.all_tokens(4), None);
    }

    #[test]
    fn the_host_has_the_last_word() {
        let mut sequences = Sequences::default();
        filled(&mut sequences, 0, 6, tag(1));
        sequences.reconcile(0, 2);
        assert_eq!(tokens(&sequences, 0).len(), 3);
        sequences.reconcile(0, -1);
        assert!(sequences.get(0).is_none());
    }
}
