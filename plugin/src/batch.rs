//! What is computed in one call: `struct llama_batch`, read and made.

use std::ptr::null_mut;

use crate::host::ByValue;
use crate::sequences::Placed;

/// `struct llama_batch` of llama.h. Versions differ in what follows it.
#[repr(C)]
struct LlamaBatch {
    n_tokens: i32,
    token: *mut i32,
    embd: *mut f32,
    pos: *mut i32,
    n_seq_id: *mut i32,
    seq_id: *mut *mut i32,
    logits: *mut i8,
}

/// One input in one of its sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// The sequence.
    pub sequence: i32,
    /// Its position; without one it follows the last.
    pub position: Option<i32>,
    /// The token, unless it is a vector.
    pub token: Option<i32>,
}

/// The inputs of a batch, in their order.
///
/// # Safety
/// `batch` must be a valid `struct llama_batch`.
pub unsafe fn read(batch: &ByValue) -> Vec<Input> {
    let batch = std::ptr::from_ref(batch).cast::<LlamaBatch>();
    let mut inputs = Vec::new();
    // SAFETY: the caller vouches for the struct, whose arrays have n_tokens elements or are
    // null.
    unsafe {
        let batch = &*batch;
        for i in 0..usize::try_from(batch.n_tokens).unwrap_or(0) {
            let element = |array: *mut i32| (!array.is_null()).then(|| *array.add(i));
            let sequences: &[i32] = if batch.n_seq_id.is_null() || batch.seq_id.is_null() {
                &[0]
            } else {
                let count = usize::try_from(*batch.n_seq_id.add(i)).unwrap_or(0);
                let sequences = *batch.seq_id.add(i);
                match count == 0 || sequences.is_null() {
                    true => &[0],
                    false => std::slice::from_raw_parts(sequences, count),
                }
            };
            inputs.extend(sequences.iter().map(|sequence| Input {
                sequence: *sequence,
                position: element(batch.pos),
                token: element(batch.token).filter(|_| batch.embd.is_null()),
            }));
        }
    }
    inputs
}

/// Tokens of one sequence as a batch without outputs.
pub struct Batch {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    counts: Vec<i32>,
    /// What the pointers in `sequences` point to.
    sequence: Box<i32>,
    sequences: Vec<*mut i32>,
    outputs: Vec<i8>,
}

impl Batch {
    /// These tokens in `sequence`.
    pub fn new(sequence: i32, tokens: &[Placed]) -> Self {
        Self {
            tokens: tokens.iter().map(|(_, token)| *token).collect(),
            positions: tokens.iter().map(|(position, _)| *position).collect(),
            counts: vec![1; tokens.len()],
            sequence: Box::new(sequence),
            sequences: vec![null_mut(); tokens.len()],
            outputs: vec![0; tokens.len()],
        }
    }

    /// The struct to pass; valid as long as this value.
    pub fn by_value(&mut self) -> ByValue {
        self.sequences.fill(std::ptr::from_mut(&mut *self.sequence));
        let batch = LlamaBatch {
            n_tokens: self.tokens.len() as i32,
            token: self.tokens.as_mut_ptr(),
            embd: null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.counts.as_mut_ptr(),
            seq_id: self.sequences.as_mut_ptr(),
            logits: self.outputs.as_mut_ptr(),
        };
        let mut value = ByValue::ZERO;
        // SAFETY: the value is larger than the struct and aligned for it.
        unsafe {
            std::ptr::from_mut(&mut value)
                .cast::<LlamaBatch>()
                .write(batch)
        };
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_read() {
        let mut batch = Batch::new(3, &[(5, 50), (6, 60)]);
        let input = |position, token| Input {
            sequence: 3,
            position: Some(position),
            token: Some(token),
        };
        let value = batch.by_value();
        // SAFETY: made by `by_value`.
        let inputs = unsafe { read(&value) };
        assert_eq!(inputs, [input(5, 50), input(6, 60)]);
    }

    #[test]
    fn null_arrays_have_their_meaning() {
        let mut tokens = [7, 8];
        let batch = LlamaBatch {
            n_tokens: 2,
            token: tokens.as_mut_ptr(),
            embd: null_mut(),
            pos: null_mut(),
            n_seq_id: null_mut(),
            seq_id: null_mut(),
            logits: null_mut(),
        };
        let mut value = ByValue::ZERO;
        // SAFETY: as in `by_value`.
        unsafe {
            std::ptr::from_mut(&mut value)
                .cast::<LlamaBatch>()
                .write(batch)
        };
        // SAFETY: a valid struct.
        let inputs = unsafe { read(&value) };
        let expected = tokens.map(|token| Input {
            sequence: 0,
            position: None,
            token: Some(token),
        });
        assert_eq!(inputs, expected);
    }
}
