//! Functions that change which cells belong to which sequence: done by the host, and followed.

use std::ffi::{c_int, CStr};

use super::pass::function;
use crate::contexts;
use crate::host::{LlamaMemory, MemoryApi};
use crate::request::enabled;
use crate::sequences::{Range, Sequences};

shim!(llama_memory_clear(memory: *mut LlamaMemory, data: bool) => clear);
shim!(llama_memory_seq_rm(memory: *mut LlamaMemory, sequence: i32, p0: i32, p1: i32) -> bool => remove);
shim!(llama_memory_seq_cp(memory: *mut LlamaMemory, from: i32, to: i32, p0: i32, p1: i32) => copy);
shim!(llama_memory_seq_keep(memory: *mut LlamaMemory, sequence: i32) => keep);
shim!(llama_memory_seq_add(memory: *mut LlamaMemory, sequence: i32, p0: i32, p1: i32, delta: i32) => add);
shim!(llama_memory_seq_div(memory: *mut LlamaMemory, sequence: i32, p0: i32, p1: i32, by: c_int) => divide);

/// Has `call` call the host's function, `name` and `own` in a known host, and `then` follow it
/// if its result says that it did what it was to do.
fn followed<F: Copy, R>(
    memory: *mut LlamaMemory,
    own: fn(&MemoryApi) -> F,
    name: &CStr,
    caller: usize,
    call: impl FnOnce(F) -> R,
    then: impl FnOnce(&mut Sequences, &R),
) -> R {
    let state = contexts::find_by_memory(memory);
    let known = state.as_ref().map(|state| own(&state.host.memory));
    let result = call(function(known, name, caller));
    if let Some(state) = state.filter(|_| enabled()) {
        then(&mut state.sequences(), &result);
    }
    result
}

unsafe extern "C-unwind" fn clear(memory: *mut LlamaMemory, data: bool, caller: usize) {
    type Clear = unsafe extern "C-unwind" fn(*mut LlamaMemory, bool);
    // SAFETY: the caller's arguments, passed on.
    let call = |clear: Clear| unsafe { clear(memory, data) };
    let then = |sequences: &mut Sequences, (): &()| sequences.clear();
    let own = |api: &MemoryApi| api.llama_memory_clear;
    followed(memory, own, c"llama_memory_clear", caller, call, then);
}

unsafe extern "C-unwind" fn remove(
    memory: *mut LlamaMemory,
    sequence: i32,
    p0: i32,
    p1: i32,
    caller: usize,
) -> bool {
    type Remove = unsafe extern "C-unwind" fn(*mut LlamaMemory, i32, i32, i32) -> bool;
    // SAFETY: the caller's arguments, passed on.
    let call = |remove: Remove| unsafe { remove(memory, sequence, p0, p1) };
    let then = |sequences: &mut Sequences, done: &bool| {
        if *done {
            sequences.remove(sequence, Range::new(p0, p1));
        }
    };
    let own = |api: &MemoryApi| api.llama_memory_seq_rm;
    followed(memory, own, c"llama_memory_seq_rm", caller, call, then)
}

unsafe extern "C-unwind" fn copy(
    memory: *mut LlamaMemory,
    from: i32,
    to: i32,
    p0: i32,
    p1: i32,
    caller: usize,
) {
    // SAFETY: the caller's arguments, passed on.
    let call = |copy: Numbers| unsafe { copy(memory, from, to, p0, p1) };
    let then = |sequences: &mut Sequences, (): &()| sequences.copy(from, to, Range::new(p0, p1));
    let own = |api: &MemoryApi| api.llama_memory_seq_cp;
    followed(memory, own, c"llama_memory_seq_cp", caller, call, then);
}

unsafe extern "C-unwind" fn keep(memory: *mut LlamaMemory, sequence: i32, caller: usize) {
    type Keep = unsafe extern "C-unwind" fn(*mut LlamaMemory, i32);
    // SAFETY: the caller's arguments, passed on.
    let call = |keep: Keep| unsafe { keep(memory, sequence) };
    let then = |sequences: &mut Sequences, (): &()| sequences.keep(sequence);
    let own = |api: &MemoryApi| api.llama_memory_seq_keep;
    followed(memory, own, c"llama_memory_seq_keep", caller, call, then);
}

type Numbers = unsafe extern "C-unwind" fn(*mut LlamaMemory, i32, i32, i32, i32);

unsafe extern "C-unwind" fn add(
    memory: *mut LlamaMemory,
    sequence: i32,
    p0: i32,
    p1: i32,
    delta: i32,
    caller: usize,
) {
    // SAFETY: the caller's arguments, passed on.
    let call = |add: Numbers| unsafe { add(memory, sequence, p0, p1, delta) };
    let then = |sequences: &mut Sequences, (): &()| {
        let range = Range::new(p0, p1);
        sequences.move_positions(sequence, range, |position| position.saturating_add(delta));
    };
    let own = |api: &MemoryApi| api.llama_memory_seq_add;
    followed(memory, own, c"llama_memory_seq_add", caller, call, then);
}

unsafe extern "C-unwind" fn divide(
    memory: *mut LlamaMemory,
    sequence: i32,
    p0: i32,
    p1: i32,
    by: c_int,
    caller: usize,
) {
    // SAFETY: the caller's arguments, passed on.
    let call = |divide: Numbers| unsafe { divide(memory, sequence, p0, p1, by) };
    let then = |sequences: &mut Sequences, (): &()| {
        let range = Range::new(p0, p1);
        sequences.move_positions(sequence, range, |position| position / by.max(1));
    };
    let own = |api: &MemoryApi| api.llama_memory_seq_div;
    followed(memory, own, c"llama_memory_seq_div", caller, call, then);
}
