//! Cached keys and values, forgotten where they were computed under other edits.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

/// Forgets every cached key and value of a live context.
pub(super) fn forget_all(ctx: NonNull<sys::llama_context>) {
    // SAFETY: hooks exist on live contexts only; models without a memory return null.
    unsafe {
        let memory = sys::llama_get_memory(ctx.as_ptr());
        if !memory.is_null() {
            sys::llama_memory_clear(memory, true);
        }
    }
}

/// Forgets what is cached of a sequence of a live context from `position` on; all of it where
/// the model cannot go back.
pub(super) fn forget_sequence(ctx: NonNull<sys::llama_context>, sequence: usize, position: i32) {
    // SAFETY: as above, and the context has the sequence; -1 stands for "from the beginning" and
    // "to the end".
    unsafe {
        let memory = sys::llama_get_memory(ctx.as_ptr());
        let remove = |from| sys::llama_memory_seq_rm(memory, sequence as i32, from, -1);
        if !memory.is_null() && !remove(position) {
            remove(-1);
        }
    }
}
