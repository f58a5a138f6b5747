//! What is known of cells that were loaded.

use crate::host::LlamaContext;
use crate::sequences::{Cells, Tag};
use crate::state::ContextState;

/// `LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY`: the state of recurrent layers and of sliding windows,
/// beside cells that stay.
const PARTIAL: u32 = 1;

/// Whether any of these was computed under edits, or may have been.
pub fn is_edited(sequences: &[(i32, Cells)]) -> bool {
    let unedited = Some(Tag::of([]));
    sequences.iter().any(|(_, cells)| cells.tag != unedited)
}

/// The whole context was loaded, with these sequences if they are known.
pub fn all(state: &ContextState, kept: Option<Vec<(i32, Cells)>>) {
    let mut sequences = state.sequences();
    sequences.clear();
    for (sequence, cells) in kept.into_iter().flatten() {
        sequences.insert(sequence, cells);
    }
}

/// One sequence was loaded, saved as another one perhaps.
pub fn one(state: &ContextState, sequence: i32, kept: Option<Vec<(i32, Cells)>>, flags: u32) {
    let loaded = kept.and_then(|kept| kept.into_iter().next());
    let loaded = loaded.map_or(Cells::FOREIGN, |(_, cells)| cells);
    let mut sequences = state.sequences();
    let before = sequences.get(sequence).filter(|_| flags & PARTIAL != 0);
    let cells = match before {
        None => loaded,
        Some(cells) => Cells {
            tag: cells.tag.filter(|tag| loaded.tag == Some(*tag)),
            tokens: cells.tokens.clone(),
        },
    };
    sequences.insert(sequence, cells);
}

/// Tokens stood in a file of which nothing else is known: with them its cells can be computed
/// anew, if they are as many.
///
/// # Safety
/// `context` must be that of `state`; `count` must be null or valid, and `tokens` valid for as
/// many.
pub unsafe fn tokens(
    state: &ContextState,
    context: *mut LlamaContext,
    sequence: i32,
    tokens: *const i32,
    count: *const usize,
) {
    let known = |cells: &Cells| cells.tokens.is_some();
    if tokens.is_null() || count.is_null() || state.sequences().get(sequence).is_some_and(known) {
        return;
    }
    // SAFETY: the caller vouches for all of them.
    let (last, tokens) = unsafe {
        let memory = (state.host.llama.llama_get_memory)(context);
        if memory.is_null() || !state.possible(context).contains(&sequence) {
            return;
        }
        (
            (state.host.memory.llama_memory_seq_pos_max)(memory, sequence),
            std::slice::from_raw_parts(tokens, *count),
        )
    };
    let cells = usize::try_from(i64::from(last) + 1).unwrap_or(0);
    if let Some(tokens) = listed(tokens, cells) {
        let cells = Cells {
            tag: None,
            tokens: Some((0..).zip(tokens.iter().copied()).collect()),
        };
        state.sequences().insert(sequence, cells);
    }
}

/// The tokens of as many cells among what a host has saved as such: they alone, or as
/// llama-server packs them: -1, a version, their number, they, and what else was in the prompt.
fn listed(saved: &[i32], cells: usize) -> Option<&[i32]> {
    let tokens = match saved {
        [-1, 1, count, tokens @ ..] if usize::try_from(*count) == Ok(cells) => tokens.get(..cells),
        _ => (saved.len() == cells).then_some(saved),
    };
    // An image has no token.
    tokens.filter(|tokens| tokens.iter().all(|token| *token >= 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_tokens_are_those_of_all_cells_or_none() {
        assert_eq!(listed(&[5, 6, 7], 3), Some(&[5, 6, 7][..]));
        assert_eq!(listed(&[5, 6, 7], 2), None);
        assert_eq!(listed(&[-1, 1, 2, 5, 6, 0], 2), Some(&[5, 6][..]));
        for other in [
            &[-1, 1, 2, 5, -1, 0][..],
            &[-1, 2, 2, 5, 6, 0],
            &[-1, 1, 2, 5],
            &[5, -1],
        ] {
            assert_eq!(listed(other, 2), None, "{other:?}");
        }
        assert_eq!(listed(&[-1, 1, -3], 0), None);
    }
}
