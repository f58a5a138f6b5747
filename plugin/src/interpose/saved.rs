//! Saved cells: a trailer behind llama.cpp's own data tells the edits and tokens of each
//! sequence. Data without one, or of another program, count as computed under other edits.

use std::ffi::{c_char, CStr};
use std::sync::Arc;

use super::files::{self, Kept};
use super::memory_file::path_of;
use super::pass;
use crate::contexts::{self, pass_on, PassedOn};
use crate::host::{LlamaContext, StateApi};
use crate::log;
use crate::request::enabled;
use crate::restored;
use crate::sequences::{split, trailer, Cells};
use crate::state::ContextState;

shim!(llama_state_get_size(context: *mut LlamaContext) -> usize => get_size);
shim!(llama_state_get_data(context: *mut LlamaContext, to: *mut u8, size: usize) -> usize => get_data);
shim!(llama_state_set_data(context: *mut LlamaContext, from: *const u8, size: usize) -> usize => set_data);
shim!(llama_state_save_file(context: *mut LlamaContext, path: *const c_char, tokens: *const i32, count: usize) -> bool => save_file);
shim!(llama_state_load_file(context: *mut LlamaContext, path: *const c_char, tokens: *mut i32, most: usize, count: *mut usize) -> bool => load_file);
shim!(llama_state_seq_get_size(context: *mut LlamaContext, sequence: i32) -> usize => seq_get_size_plain);
shim!(llama_state_seq_get_data(context: *mut LlamaContext, to: *mut u8, size: usize, sequence: i32) -> usize => seq_get_data_plain);
shim!(llama_state_seq_set_data(context: *mut LlamaContext, from: *const u8, size: usize, sequence: i32) -> usize => seq_set_data_plain);
shim!(llama_state_seq_get_size_ext(context: *mut LlamaContext, sequence: i32, flags: u32) -> usize => seq_get_size);
shim!(llama_state_seq_get_data_ext(context: *mut LlamaContext, to: *mut u8, size: usize, sequence: i32, flags: u32) -> usize => seq_get_data);
shim!(llama_state_seq_set_data_ext(context: *mut LlamaContext, from: *const u8, size: usize, sequence: i32, flags: u32) -> usize => seq_set_data);
shim!(llama_state_seq_save_file(context: *mut LlamaContext, path: *const c_char, sequence: i32, tokens: *const i32, count: usize) -> usize => seq_save_file);

// The names of before, which older programs still call.
shim!(llama_get_state_size(context: *mut LlamaContext) -> usize => get_size);
shim!(llama_copy_state_data(context: *mut LlamaContext, to: *mut u8) -> usize => get_data_unbounded);
shim!(llama_set_state_data(context: *mut LlamaContext, from: *const u8) -> usize => set_data_unbounded);
shim!(llama_save_session_file(context: *mut LlamaContext, path: *const c_char, tokens: *const i32, count: usize) -> bool => save_file);
shim!(llama_load_session_file(context: *mut LlamaContext, path: *const c_char, tokens: *mut i32, most: usize, count: *mut usize) -> bool => load_file);

/// A call for a context, and whether it is to be followed.
struct Call {
    state: Option<Arc<ContextState>>,
    passed_on: Option<PassedOn>,
}

impl Call {
    fn of(context: *mut LlamaContext) -> Self {
        Self {
            state: contexts::find(context),
            passed_on: pass_on(),
        }
    }

    /// The host's function.
    fn function<F: Copy>(&self, own: fn(&StateApi) -> F, name: &CStr, caller: usize) -> F {
        let known = self.state.as_ref().map(|state| own(&state.host.state));
        pass::function(known, name, caller)
    }

    /// The context's state, unless the call comes from within llama.cpp or nothing is edited.
    fn followed(&self) -> Option<&ContextState> {
        let outer = self.passed_on.is_some() && enabled();
        self.state.as_deref().filter(|_| outer)
    }

    /// The trailer for one sequence, or for all.
    fn trailer(&self, sequence: Option<i32>) -> Option<Vec<u8>> {
        let sequences = self.followed()?.sequences();
        let wanted = |of: &i32| sequence.is_none_or(|sequence| sequence == *of);
        Some(trailer(sequences.iter().filter(|(of, _)| wanted(of))))
    }

    /// The length of llama.cpp's data with the trailer's.
    fn sized(&self, own: usize, sequence: Option<i32>) -> usize {
        let more = self.trailer(sequence).filter(|_| own > 0);
        own + more.map_or(0, |trailer| trailer.len())
    }

    /// Puts the trailer behind `own` bytes at `to`, which has room for `size`.
    ///
    /// # Safety
    /// `to` must be valid for `size` bytes.
    unsafe fn append(&self, to: *mut u8, own: usize, size: usize, sequence: Option<i32>) -> usize {
        let Some(trailer) = self.trailer(sequence).filter(|_| own > 0) else {
            return own;
        };
        // Functions without a size of the buffer pass the largest number.
        let end = own + trailer.len();
        if size > isize::MAX as usize || end > size {
            return own;
        }
        // SAFETY: within the caller's buffer.
        unsafe { std::ptr::copy_nonoverlapping(trailer.as_ptr(), to.add(own), trailer.len()) };
        end
    }

    /// What is saved at `from`: the length of llama.cpp's own data, and the sequences of the
    /// trailer.
    ///
    /// # Safety
    /// `from` must be valid for `size` bytes, if that is a size.
    unsafe fn split(&self, from: *const u8, size: usize) -> (usize, Option<Vec<(i32, Cells)>>) {
        if self.passed_on.is_none() || from.is_null() || size > isize::MAX as usize {
            return (size, None);
        }
        // SAFETY: the caller vouches for both.
        let data = unsafe { std::slice::from_raw_parts(from, size) };
        match split(data) {
            Some((own, sequences)) => (own, Some(sequences)),
            None => (size, None),
        }
    }

    /// Has `read` read the cells of `size` bytes at `from`, given how many of them are llama.cpp's
    /// own, and `note` follow it. Returns how many were read, with the trailer.
    ///
    /// # Safety
    /// As for [`Self::split`].
    unsafe fn restore(
        &self,
        from: *const u8,
        size: usize,
        read: impl FnOnce(usize) -> usize,
        note: impl FnOnce(&ContextState, Option<Vec<(i32, Cells)>>),
    ) -> usize {
        // SAFETY: the caller vouches for both.
        let (own, kept) = unsafe { self.split(from, size) };
        if self.refuses(kept.as_deref()) {
            return 0;
        }
        let done = read(own);
        if let Some(state) = self.followed() {
            note(state, kept);
        }
        if done == own {
            size
        } else {
            done
        }
    }

    /// Whether saved cells of edits are to be loaded where no edits are: nobody would notice.
    fn refuses(&self, kept: Option<&[(i32, Cells)]>) -> bool {
        let refused =
            self.passed_on.is_some() && !enabled() && kept.is_some_and(restored::is_edited);
        if refused {
            log::error(
                "what was saved was computed under edits, and none are loaded: it is not used",
            );
        }
        refused
    }
}

unsafe extern "C-unwind" fn get_size(context: *mut LlamaContext, caller: usize) -> usize {
    let call = Call::of(context);
    let real = call.function(
        |api| api.llama_state_get_size,
        c"llama_state_get_size",
        caller,
    );
    // SAFETY: the caller's arguments, passed on.
    call.sized(unsafe { real(context) }, None)
}

unsafe extern "C-unwind" fn get_data(
    context: *mut LlamaContext,
    to: *mut u8,
    size: usize,
    caller: usize,
) -> usize {
    let call = Call::of(context);
    let real = call.function(
        |api| api.llama_state_get_data,
        c"llama_state_get_data",
        caller,
    );
    // SAFETY: the caller's arguments, passed on; the buffer is the caller's.
    unsafe { call.append(to, real(context, to, size), size, None) }
}

unsafe extern "C-unwind" fn set_data(
    context: *mut LlamaContext,
    from: *const u8,
    size: usize,
    caller: usize,
) -> usize {
    let call = Call::of(context);
    let real = call.function(
        |api| api.llama_state_set_data,
        c"llama_state_set_data",
        caller,
    );
    // SAFETY: the caller's arguments, passed on.
    let read = |own| unsafe { real(context, from, own) };
    // SAFETY: the caller's buffer.
    unsafe { call.restore(from, size, read, restored::all) }
}

/// The size that stands for a buffer of which none is told.
const UNBOUNDED: usize = usize::MAX;

unsafe extern "C-unwind" fn get_data_unbounded(
    context: *mut LlamaContext,
    to: *mut u8,
    caller: usize,
) -> usize {
    // SAFETY: the caller's arguments; this is what the function without a size means.
    unsafe { get_data(context, to, UNBOUNDED, caller) }
}

unsafe extern "C-unwind" fn set_data_unbounded(
    context: *mut LlamaContext,
    from: *const u8,
    caller: usize,
) -> usize {
    // SAFETY: as in `get_data_unbounded`.
    unsafe { set_data(context, from, UNBOUNDED, caller) }
}

unsafe extern "C-unwind" fn save_file(
    context: *mut LlamaContext,
    path: *const c_char,
    tokens: *const i32,
    count: usize,
    caller: usize,
) -> bool {
    let call = Call::of(context);
    let real = call.function(
        |api| api.llama_state_save_file,
        c"llama_state_save_file",
        caller,
    );
    // SAFETY: the caller's arguments, passed on.
    let saved = unsafe { real(context, path, tokens, count) };
    match call.trailer(None).filter(|_| saved) {
        // SAFETY: llama.cpp has just written to the path.
        Some(trailer) => unsafe { files::append(path, &trailer) },
        None => saved,
    }
}

unsafe extern "C-unwind" fn load_file(
    context: *mut LlamaContext,
    path: *const c_char,
    tokens: *mut i32,
    most: usize,
    count: *mut usize,
    caller: usize,
) -> bool {
    let call = Call::of(context);
    let real = call.function(
        |api| api.llama_state_load_file,
        c"llama_state_load_file",
        caller,
    );
    // SAFETY: the caller's path.
    let kept = unsafe { Kept::read(path) };
    if call.refuses(kept.as_ref().map(|kept| &kept.sequences[..])) {
        return false;
    }
    // llama.cpp refuses a file that is longer than its own data.
    let own = kept.as_ref().map(Kept::without_trailer).transpose();
    let own = match own {
        Ok(own) => own,
        Err(error) => {
            log::error(format_args!("reading a saved state: {error}"));
            return false;
        }
    };
    let shorter = own.as_ref().map(path_of);
    let path = shorter.as_ref().map_or(path, |path| path.as_ptr());
    // SAFETY: the caller's arguments, passed on; the file is open until the call is over.
    let loaded = unsafe { real(context, path, tokens, most, count) };
    if let Some(state) = call.followed() {
        restored::all(state, kept.map(|kept| kept.sequences));
        if loaded {
            // SAFETY: llama.cpp has just written the tokens and their count.
            unsafe { restored::tokens(state, context, 0, tokens, count) };
        }
    }
    loaded
}

unsafe extern "C-unwind" fn seq_get_size(
    context: *mut LlamaContext,
    sequence: i32,
    flags: u32,
    caller: usize,
) -> usize {
    let call = Call::of(context);
    let own = |api: &StateApi| api.llama_state_seq_get_size_ext;
    let real = call.function(own, c"llama_state_seq_get_size_ext", caller);
    // SAFETY: the caller's arguments, passed on.
    call.sized(unsafe { real(context, sequence, flags) }, Some(sequence))
}

unsafe extern "C-unwind" fn seq_get_data(
    context: *mut LlamaContext,
    to: *mut u8,
    size: usize,
    sequence: i32,
    flags: u32,
    caller: usize,
) -> usize {
    let call = Call::of(context);
    let own = |api: &StateApi| api.llama_state_seq_get_data_ext;
    let real = call.function(own, c"llama_state_seq_get_data_ext", caller);
    // SAFETY: the caller's arguments, passed on; the buffer is the caller's.
    unsafe {
        let own = real(context, to, size, sequence, flags);
        call.append(to, own, size, Some(sequence))
    }
}

unsafe extern "C-unwind" fn seq_set_data(
    context: *mut LlamaContext,
    from: *const u8,
    size: usize,
    sequence: i32,
    flags: u32,
    caller: usize,
) -> usize {
    let call = Call::of(context);
    let own = |api: &StateApi| api.llama_state_seq_set_data_ext;
    let real = call.function(own, c"llama_state_seq_set_data_ext", caller);
    // SAFETY: the caller's arguments, passed on.
    let read = |own| unsafe { real(context, from, own, sequence, flags) };
    let note = |state: &ContextState, kept| restored::one(state, sequence, kept, flags);
    // SAFETY: the caller's buffer.
    unsafe { call.restore(from, size, read, note) }
}

unsafe extern "C-unwind" fn seq_get_size_plain(
    context: *mut LlamaContext,
    sequence: i32,
    caller: usize,
) -> usize {
    // SAFETY: the caller's arguments; this is what the function without flags means.
    unsafe { seq_get_size(context, sequence, 0, caller) }
}

unsafe extern "C-unwind" fn seq_get_data_plain(
    context: *mut LlamaContext,
    to: *mut u8,
    size: usize,
    sequence: i32,
    caller: usize,
) -> usize {
    // SAFETY: as in `seq_get_size_plain`.
    unsafe { seq_get_data(context, to, size, sequence, 0, caller) }
}

unsafe extern "C-unwind" fn seq_set_data_plain(
    context: *mut LlamaContext,
    from: *const u8,
    size: usize,
    sequence: i32,
    caller: usize,
) -> usize {
    // SAFETY: as in `seq_get_size_plain`.
    unsafe { seq_set_data(context, from, size, sequence, 0, caller) }
}

unsafe extern "C-unwind" fn seq_save_file(
    context: *mut LlamaContext,
    path: *const c_char,
    sequence: i32,
    tokens: *const i32,
    count: usize,
    caller: usize,
) -> usize {
    let call = Call::of(context);
    let own = |api: &StateApi| api.llama_state_seq_save_file;
    let real = call.function(own, c"llama_state_seq_save_file", caller);
    // SAFETY: the caller's arguments, passed on.
    let saved = unsafe { real(context, path, sequence, tokens, count) };
    match call.trailer(Some(sequence)).filter(|_| saved > 0) {
        // SAFETY: llama.cpp has just written to the path.
        Some(trailer) if unsafe { files::append(path, &trailer) } => saved + trailer.len(),
        Some(_) => 0,
        None => saved,
    }
}

/// Stands in for the host's function of this name. Its six arguments leave no room for the
/// caller's address.
///
/// # Safety
/// As for the host's function.
#[no_mangle]
pub unsafe extern "C-unwind" fn llama_state_seq_load_file(
    context: *mut LlamaContext,
    path: *const c_char,
    sequence: i32,
    tokens: *mut i32,
    most: usize,
    count: *mut usize,
) -> usize {
    let call = Call::of(context);
    let own = |api: &StateApi| api.llama_state_seq_load_file;
    let real = call.function(own, c"llama_state_seq_load_file", 0);
    // SAFETY: the caller's path.
    let kept = unsafe { Kept::read(path) };
    if call.refuses(kept.as_ref().map(|kept| &kept.sequences[..])) {
        return 0;
    }
    // SAFETY: the caller's arguments, passed on. llama.cpp does not look at what follows its
    // own data here.
    let read = unsafe { real(context, path, sequence, tokens, most, count) };
    // Without a place for tokens newer versions only count them.
    if let Some(state) = call.followed().filter(|_| !tokens.is_null()) {
        restored::one(state, sequence, kept.map(|kept| kept.sequences), 0);
        if read > 0 {
            // SAFETY: llama.cpp has just written the tokens and their count.
            unsafe { restored::tokens(state, context, sequence, tokens, count) };
        }
    }
    read
}
