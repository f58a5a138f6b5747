//! What stands behind saved cells: their sequences' tags and tokens.
//!
//! llama.cpp reads its own data from the front, so that this can follow them. All numbers are
//! little-endian. For each sequence: its number, the tag (a byte that says whether there is
//! one, and 16 bytes), the number of tokens (all ones: not known), and position and token of
//! each. Then the number of sequences, the length of all of it, and [`MAGIC`].

use super::{Cells, Tag};

const MAGIC: [u8; 8] = *b"jolacell";
/// Bytes at the end from which [`len_of`] tells the whole length: number of sequences, length,
/// magic.
pub const FOOTER: usize = 4 + 8 + MAGIC.len();
const UNKNOWN: u32 = u32::MAX;

/// The bytes to put behind the cells of these sequences.
pub fn trailer<'a>(sequences: impl IntoIterator<Item = (i32, &'a Cells)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut count = 0u32;
    for (sequence, cells) in sequences {
        count += 1;
        bytes.extend(sequence.to_le_bytes());
        bytes.push(u8::from(cells.tag.is_some()));
        bytes.extend(cells.tag.unwrap_or(Tag([0; 16])).0);
        match &cells.tokens {
            None => bytes.extend(UNKNOWN.to_le_bytes()),
            Some(tokens) => {
                bytes.extend((tokens.len() as u32).to_le_bytes());
                for (position, token) in tokens {
                    bytes.extend(position.to_le_bytes());
                    bytes.extend(token.to_le_bytes());
                }
            }
        }
    }
    bytes.extend(count.to_le_bytes());
    let len = (bytes.len() + FOOTER - 4) as u64;
    bytes.extend(len.to_le_bytes());
    bytes.extend(MAGIC);
    bytes
}

/// Length of the trailer that ends in these bytes, if they are the end of one.
pub fn len_of(footer: &[u8; FOOTER]) -> Option<u64> {
    Reader(footer.strip_suffix(&MAGIC)?)
        .last()
        .map(u64::from_le_bytes)
}

/// How many of `data` are llama.cpp's own, and the sequences of the trailer behind them; `None`
/// if there is no sound one.
pub fn split(data: &[u8]) -> Option<(usize, Vec<(i32, Cells)>)> {
    let mut end = Reader(data.strip_suffix(&MAGIC)?);
    let len = usize::try_from(u64::from_le_bytes(end.last()?)).ok()?;
    let count = u32::from_le_bytes(end.last()?);
    let own = data.len().checked_sub(len)?;
    let mut reader = Reader(end.0.get(own..)?);
    let mut sequences = Vec::new();
    for _ in 0..count {
        sequences.push(reader.sequence()?);
    }
    reader.0.is_empty().then_some((own, sequences))
}

/// Bytes that are not read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn last<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (rest, last) = self.0.split_last_chunk()?;
        self.0 = rest;
        Some(*last)
    }

    fn sequence(&mut self) -> Option<(i32, Cells)> {
        let sequence = i32::from_le_bytes(self.next()?);
        let has_tag = self.next::<1>()? != [0];
        let tag = Tag(self.next()?);
        let tokens = match u32::from_le_bytes(self.next()?) {
            UNKNOWN => None,
            count => {
                let mut tokens = Vec::new();
                for _ in 0..count {
                    let position = i32::from_le_bytes(self.next()?);
                    tokens.push((position, i32::from_le_bytes(self.next()?)));
                }
                Some(tokens)
            }
        };
        let tag = has_tag.then_some(tag);
        Some((sequence, Cells { tag, tokens }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<(i32, Cells)> {
        let tagged = Cells {
            tag: Some(Tag([7; 16])),
            tokens: Some(vec![(0, 5), (1, -2), (i32::MAX, 9)]),
        };
        vec![(0, tagged), (3, Cells::FOREIGN)]
    }

    fn saved(own: &[u8], sequences: &[(i32, Cells)]) -> Vec<u8> {
        let parts = sequences.iter().map(|(sequence, cells)| (*sequence, cells));
        [own, &trailer(parts)].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        for sequences in [vec![], examples()] {
            let data = saved(b"own data", &sequences);
            let footer = data.last_chunk().expect("a footer");
            assert_eq!(len_of(footer), Some(data.len() as u64 - 8));
            assert_eq!(split(&data), Some((8, sequences)));
        }
    }

    #[test]
    fn broken_trailers_are_none() {
        assert_eq!(split(b""), None);
        assert_eq!(split(b"own data"), None);
        assert_eq!(split(b"jolacell"), None);
        let data = saved(b"own data", &examples());
        for end in 0..data.len() {
            assert_eq!(split(&data[..end]), None, "cut at {end}");
        }
        // Any one byte of the counts and the length.
        let tail = data.len() - FOOTER;
        for index in tail..data.len() {
            let mut broken = data.clone();
            broken[index] ^= 0x81;
            assert_eq!(split(&broken), None, "byte {index}");
        }
    }
}
