//! Batches of the newer type, which only llama.cpp can read: what goes in is written down.

use std::collections::HashMap;
use std::ffi::{c_void, CStr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::pass::function;
use crate::batch::Input;
use crate::cells::Inputs;
use crate::contexts;
use crate::host::{BatchApi, ByValue, LlamaBatchExt, LlamaContext};
use crate::request::enabled;

shim!(llama_batch_ext_init(context: *mut LlamaContext) -> *mut LlamaBatchExt => init);
shim!(llama_batch_ext_free(batch: *mut LlamaBatchExt) => free);
shim!(llama_batch_ext_clear(batch: *mut LlamaBatchExt) => clear);
shim!(llama_batch_ext_add(batch: *mut LlamaBatchExt, sequence: i32) -> i32 => add);
shim!(llama_batch_ext_add_token(batch: *mut LlamaBatchExt, sequence: i32, token: i32) -> i32 => add_token);
shim!(llama_batch_ext_add_seq(batch: *mut LlamaBatchExt, index: i32, sequence: i32) -> bool => add_sequence);
shim!(llama_batch_ext_set_pos(batch: *mut LlamaBatchExt, index: i32, position: *const i32) -> bool => set_position);

/// `f(batch, number, struct by value)` becomes `to(batch, number, &struct, caller)`.
macro_rules! vector_shim {
    ($name:ident -> $ret:ty => $to:path) => {
        /// Stands in for the host's function of this name.
        ///
        /// # Safety
        /// As for the host's function.
        #[unsafe(naked)]
        #[no_mangle]
        pub unsafe extern "C-unwind" fn $name(
            batch: *mut LlamaBatchExt,
            number: i32,
            vector: ByValue,
        ) -> $ret {
            #[cfg(target_arch = "x86_64")]
            std::arch::naked_asm!(
                "lea rdx, [rsp + 8]", // structs of more than 16 bytes lie on the stack
                "mov rcx, [rsp]",
                "jmp {to}",
                to = sym $to,
            );
            #[cfg(target_arch = "aarch64")]
            std::arch::naked_asm!(
                "mov x3, x30", // such structs come as a pointer, in x2
                "b {to}",
                to = sym $to,
            );
        }
    };
}

vector_shim!(llama_batch_ext_add_embd -> i32 => add_vector);
vector_shim!(llama_batch_ext_set_embd_token -> bool => set_token_vector);
vector_shim!(llama_batch_ext_set_embd_state -> bool => set_state_vector);

/// What a batch holds, as far as it was written down.
#[derive(Default)]
struct Record {
    api: Option<BatchApi>,
    /// For each of its inputs: sequences, position, token.
    inputs: Vec<(Vec<i32>, Option<i32>, Option<i32>)>,
    /// Something was added that was not written down.
    incomplete: bool,
}

impl Record {
    fn push(&mut self, index: i32, sequence: i32, token: Option<i32>) {
        if index < 0 {
            return;
        }
        self.incomplete |= usize::try_from(index) != Ok(self.inputs.len());
        self.inputs.push((vec![sequence], None, token));
    }

    fn change(
        &mut self,
        index: i32,
        change: impl FnOnce(&mut (Vec<i32>, Option<i32>, Option<i32>)),
    ) {
        match usize::try_from(index)
            .ok()
            .and_then(|index| self.inputs.get_mut(index))
        {
            Some(input) => change(input),
            None => self.incomplete = true,
        }
    }
}

type Records = HashMap<usize, Record>;

fn records() -> MutexGuard<'static, Records> {
    static RECORDS: OnceLock<Mutex<Records>> = OnceLock::new();
    let records = RECORDS.get_or_init(Mutex::default);
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a batch holds.
pub(super) fn inputs(batch: *const c_void) -> Inputs {
    let records = records();
    let Some(record) = records
        .get(&batch.addr())
        .filter(|record| !record.incomplete)
    else {
        return Inputs::Unknown;
    };
    let inputs = record
        .inputs
        .iter()
        .flat_map(|(sequences, position, token)| {
            sequences.iter().map(|sequence| Input {
                sequence: *sequence,
                position: *position,
                token: *token,
            })
        });
    Inputs::Known(inputs.collect())
}

/// Has `call` call the host's function, and `then` write down what it did, if edits are wanted.
fn noted<F: Copy, R>(
    batch: *mut LlamaBatchExt,
    own: fn(&BatchApi) -> F,
    name: &CStr,
    caller: usize,
    call: impl FnOnce(F) -> R,
    then: impl FnOnce(&mut Record, &R),
) -> R {
    let known = records().get(&batch.addr()).and_then(|record| record.api);
    let known = known.as_ref().map(own);
    let result = call(function(known, name, caller));
    if enabled() {
        if let Some(record) = records().get_mut(&batch.addr()) {
            then(record, &result);
        }
    }
    result
}

unsafe extern "C-unwind" fn init(context: *mut LlamaContext, caller: usize) -> *mut LlamaBatchExt {
    type Init = unsafe extern "C-unwind" fn(*mut LlamaContext) -> *mut LlamaBatchExt;
    let api = contexts::find(context).and_then(|state| state.host.batch);
    let known = api.map(|api| api.llama_batch_ext_init as Init);
    let init = function(known, c"llama_batch_ext_init", caller);
    // SAFETY: the caller's argument, passed on.
    let batch = unsafe { init(context) };
    let record = Record {
        api,
        ..Record::default()
    };
    records().insert(batch.addr(), record);
    batch
}

unsafe extern "C-unwind" fn free(batch: *mut LlamaBatchExt, caller: usize) {
    type Free = unsafe extern "C-unwind" fn(*mut LlamaBatchExt);
    // SAFETY: the caller's argument, passed on.
    let call = |free: Free| unsafe { free(batch) };
    let own = |api: &BatchApi| api.llama_batch_ext_free;
    noted(
        batch,
        own,
        c"llama_batch_ext_free",
        caller,
        call,
        |_, ()| {},
    );
    records().remove(&batch.addr());
}

unsafe extern "C-unwind" fn clear(batch: *mut LlamaBatchExt, caller: usize) {
    type Clear = unsafe extern "C-unwind" fn(*mut LlamaBatchExt);
    // SAFETY: the caller's argument, passed on.
    let call = |clear: Clear| unsafe { clear(batch) };
    let then = |record: &mut Record, (): &()| {
        record.inputs.clear();
        record.incomplete = false;
    };
    let own = |api: &BatchApi| api.llama_batch_ext_clear;
    noted(batch, own, c"llama_batch_ext_clear", caller, call, then);
}

unsafe extern "C-unwind" fn add(batch: *mut LlamaBatchExt, sequence: i32, caller: usize) -> i32 {
    type Add = unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32) -> i32;
    // SAFETY: the caller's arguments, passed on.
    let call = |add: Add| unsafe { add(batch, sequence) };
    let then = |record: &mut Record, index: &i32| record.push(*index, sequence, None);
    let own = |api: &BatchApi| api.llama_batch_ext_add;
    noted(batch, own, c"llama_batch_ext_add", caller, call, then)
}

unsafe extern "C-unwind" fn add_token(
    batch: *mut LlamaBatchExt,
    sequence: i32,
    token: i32,
    caller: usize,
) -> i32 {
    type Add = unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, i32) -> i32;
    // SAFETY: the caller's arguments, passed on.
    let call = |add: Add| unsafe { add(batch, sequence, token) };
    let then = |record: &mut Record, index: &i32| record.push(*index, sequence, Some(token));
    let own = |api: &BatchApi| api.llama_batch_ext_add_token;
    noted(batch, own, c"llama_batch_ext_add_token", caller, call, then)
}

unsafe extern "C-unwind" fn add_sequence(
    batch: *mut LlamaBatchExt,
    index: i32,
    sequence: i32,
    caller: usize,
) -> bool {
    type Add = unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, i32) -> bool;
    // SAFETY: the caller's arguments, passed on.
    let call = |add: Add| unsafe { add(batch, index, sequence) };
    let then = |record: &mut Record, done: &bool| {
        if *done {
            record.change(index, |(sequences, ..)| sequences.push(sequence));
        }
    };
    let own = |api: &BatchApi| api.llama_batch_ext_add_seq;
    noted(batch, own, c"llama_batch_ext_add_seq", caller, call, then)
}

unsafe extern "C-unwind" fn set_position(
    batch: *mut LlamaBatchExt,
    index: i32,
    position: *const i32,
    caller: usize,
) -> bool {
    type Set = unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, *const i32) -> bool;
    // SAFETY: the caller's arguments, passed on.
    let call = |set: Set| unsafe { set(batch, index, position) };
    let then = |record: &mut Record, done: &bool| {
        if *done {
            // SAFETY: llama.cpp has just read the position there.
            record.change(index, |(_, at, _)| *at = Some(unsafe { *position }));
        }
    };
    let own = |api: &BatchApi| api.llama_batch_ext_set_pos;
    noted(batch, own, c"llama_batch_ext_set_pos", caller, call, then)
}

unsafe extern "C-unwind" fn add_vector(
    batch: *mut LlamaBatchExt,
    sequence: i32,
    vector: *const ByValue,
    caller: usize,
) -> i32 {
    type Add = unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, ByValue) -> i32;
    // SAFETY: the caller's arguments, passed on.
    let call = |add: Add| unsafe { add(batch, sequence, *vector) };
    let then = |record: &mut Record, index: &i32| record.push(*index, sequence, None);
    let own = |api: &BatchApi| api.llama_batch_ext_add_embd;
    noted(batch, own, c"llama_batch_ext_add_embd", caller, call, then)
}

type SetVector = unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, ByValue) -> bool;

unsafe extern "C-unwind" fn set_token_vector(
    batch: *mut LlamaBatchExt,
    index: i32,
    vector: *const ByValue,
    caller: usize,
) -> bool {
    let own = |api: &BatchApi| api.llama_batch_ext_set_embd_token;
    // SAFETY: the caller's arguments, passed on.
    unsafe {
        set_vector(
            batch,
            index,
            vector,
            own,
            c"llama_batch_ext_set_embd_token",
            caller,
        )
    }
}

unsafe extern "C-unwind" fn set_state_vector(
    batch: *mut LlamaBatchExt,
    index: i32,
    vector: *const ByValue,
    caller: usize,
) -> bool {
    let own = |api: &BatchApi| api.llama_batch_ext_set_embd_state;
    // SAFETY: the caller's arguments, passed on.
    unsafe {
        set_vector(
            batch,
            index,
            vector,
            own,
            c"llama_batch_ext_set_embd_state",
            caller,
        )
    }
}

/// A token with a vector beside it cannot be computed from the token alone.
///
/// # Safety
/// As for the host's functions.
unsafe fn set_vector(
    batch: *mut LlamaBatchExt,
    index: i32,
    vector: *const ByValue,
    own: fn(&BatchApi) -> SetVector,
    name: &CStr,
    caller: usize,
) -> bool {
    // SAFETY: the caller's arguments, passed on.
    let call = |set: SetVector| unsafe { set(batch, index, *vector) };
    let then = |record: &mut Record, done: &bool| {
        if *done {
            record.change(index, |(.., token)| *token = None);
        }
    };
    noted(batch, own, name, caller, call, then)
}
