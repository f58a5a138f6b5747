//! A model's loading, passed on: only the file's name is of interest.

use std::ffi::{c_char, CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::null_mut;

use crate::host::{ByValue, LlamaModel};
use crate::resolve::lookup;
use crate::{adapters, log, usage};

type Load = unsafe extern "C-unwind" fn(*mut c_char, ByValue) -> *mut LlamaModel;

/// `llama_model_load_from_file`.
pub(super) unsafe extern "C-unwind" fn model_load_from_file(
    path: *mut c_char,
    params: *const ByValue,
    caller: usize,
) -> *mut LlamaModel {
    // SAFETY: the caller's arguments, passed on.
    unsafe { load(c"llama_model_load_from_file", path, params, caller) }
}

/// `llama_load_model_from_file`, its older name.
pub(super) unsafe extern "C-unwind" fn load_model_from_file(
    path: *mut c_char,
    params: *const ByValue,
    caller: usize,
) -> *mut LlamaModel {
    // SAFETY: the caller's arguments, passed on.
    unsafe { load(c"llama_load_model_from_file", path, params, caller) }
}

/// # Safety
/// As for `llama_model_load_from_file`; `params` points to the caller's struct.
unsafe fn load(
    name: &CStr,
    path: *mut c_char,
    params: *const ByValue,
    caller: usize,
) -> *mut LlamaModel {
    let address = match lookup(name, caller) {
        Ok(address) => address,
        Err(error) => {
            log::error(error);
            return null_mut();
        }
    };
    // SAFETY: the function of this name has this type, and gets the caller's arguments.
    let model = unsafe {
        let real = std::mem::transmute::<usize, Load>(address);
        real(path, *params)
    };
    // Whether or not edits are wanted yet: the C API may ask for them later.
    adapters::forget_model(model);
    if !model.is_null() && !path.is_null() {
        // SAFETY: llama.cpp has just read a NUL-terminated path there.
        let file = unsafe { CStr::from_ptr(path) };
        usage::loaded(model, Path::new(OsStr::from_bytes(file.to_bytes())));
    }
    model
}
