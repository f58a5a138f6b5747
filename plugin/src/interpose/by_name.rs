//! `dlsym`: who looks up a function by name that this library stands in for gets ours.

use std::collections::HashMap;
use std::ffi::{c_char, c_void, CStr};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::request::enabled;
use crate::resolve::{is_ours, next, real_dlsym};

/// Says "go on to the C library".
const GO_ON: *mut c_void = std::ptr::null_mut();
/// Says "there is no such function".
const NONE: *mut c_void = std::ptr::without_provenance_mut(1);

macro_rules! ours {
    ($($name:ident),* $(,)?) => {
        /// Our function of a name.
        fn ours(name: &[u8]) -> Option<*mut c_void> {
            $(
                if name == stringify!($name).as_bytes() {
                    return Some(super::$name as *mut c_void);
                }
            )*
            None
        }
    };
}

ours! {
    llama_init_from_model, llama_new_context_with_model, llama_model_load_from_file,
    llama_load_model_from_file, llama_decode, llama_encode, llama_process, llama_free,
    llama_set_adapter_cvec, llama_adapter_lora_init, llama_adapter_lora_free,
    llama_set_adapters_lora, llama_memory_clear, llama_memory_seq_rm, llama_memory_seq_cp,
    llama_memory_seq_keep, llama_memory_seq_add, llama_memory_seq_div, llama_state_get_size,
    llama_state_get_data, llama_state_set_data, llama_state_save_file, llama_state_load_file,
    llama_state_seq_get_size, llama_state_seq_get_data, llama_state_seq_set_data,
    llama_state_seq_get_size_ext, llama_state_seq_get_data_ext, llama_state_seq_set_data_ext,
    llama_state_seq_save_file, llama_state_seq_load_file, llama_batch_ext_init,
    llama_batch_ext_free, llama_batch_ext_clear, llama_batch_ext_add, llama_batch_ext_add_token,
    llama_batch_ext_add_embd, llama_batch_ext_add_seq, llama_batch_ext_set_embd_token,
    llama_batch_ext_set_embd_state, llama_batch_ext_set_pos, llama_get_state_size,
    llama_copy_state_data, llama_set_state_data, llama_save_session_file,
    llama_load_session_file,
}

/// Our function of that name, when the one that would be found is one that we stand in for;
/// [`NONE`] when only ours would be found; [`GO_ON`] when the C library is to answer.
pub(super) unsafe extern "C" fn looked_up(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    let real = real_dlsym();
    if name.is_null() || handle == libc::RTLD_NEXT {
        return GO_ON;
    }
    // SAFETY: dlsym's contract: a NUL-terminated name.
    let text = unsafe { CStr::from_ptr(name) };
    let named = text
        .to_bytes()
        .starts_with(b"llama_")
        .then(|| ours(text.to_bytes()));
    let Some(ours) = named.flatten() else {
        return GO_ON;
    };
    // SAFETY: the caller's arguments. What is not there must go on not being there.
    let mut found = unsafe { real(handle, name) }.addr();
    if found != 0 && is_ours(found) {
        found = next(text).unwrap_or(0);
        if found == 0 {
            return NONE;
        }
    }
    if found == 0 || !(enabled() || is_only(text, found)) {
        return GO_ON;
    }
    ours
}

/// Whether no other function of this name was ever looked up: while no edits are wanted, a
/// second llama.cpp in the process is left alone.
fn is_only(name: &CStr, found: usize) -> bool {
    static FIRST: OnceLock<Mutex<HashMap<Vec<u8>, usize>>> = OnceLock::new();
    let first = FIRST.get_or_init(Mutex::default);
    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
    *first.entry(name.to_bytes().to_vec()).or_insert(found) == found
}
