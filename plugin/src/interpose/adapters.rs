//! Adapters: a sidecar that is loaded as one, and those that a context is given.

use std::ffi::{c_char, CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use super::memory_file::{memory_file, path_of};
use super::pass::function;
use crate::adapters::{self, is_sidecar, lora_digest, write_empty_lora, Adapter};
use crate::contexts;
use crate::host::{Host, LlamaAdapter, LlamaContext, LlamaModel};
use crate::request::{enable, Source};
use crate::{log, shape, usage};

shim!(llama_adapter_lora_init(model: *mut LlamaModel, path: *const c_char) -> *mut LlamaAdapter => init);
shim!(llama_adapter_lora_free(adapter: *mut LlamaAdapter) => free);
shim!(llama_set_adapters_lora(context: *mut LlamaContext, adapters: *mut *mut LlamaAdapter, count: usize, scales: *mut f32) -> i32 => set);

type Init = unsafe extern "C-unwind" fn(*mut LlamaModel, *const c_char) -> *mut LlamaAdapter;

/// `llama_adapter_lora_init`.
unsafe extern "C-unwind" fn init(
    model: *mut LlamaModel,
    path: *const c_char,
    caller: usize,
) -> *mut LlamaAdapter {
    let init: Init = function(None, c"llama_adapter_lora_init", caller);
    if model.is_null() || path.is_null() {
        // SAFETY: the caller's arguments, passed on.
        return unsafe { init(model, path) };
    }
    // SAFETY: the caller's path is NUL-terminated.
    let name = unsafe { CStr::from_ptr(path) };
    let file = Path::new(OsStr::from_bytes(name.to_bytes()));
    if is_sidecar(file) {
        // SAFETY: the caller's model, which is alive.
        return unsafe { stand_in(init, model, file) }.unwrap_or_else(|error| {
            log::error(format_args!("no adapter is loaded: {error}"));
            null_mut()
        });
    }
    // SAFETY: the caller's arguments, passed on.
    let handle = unsafe { init(model, path) };
    if !handle.is_null() {
        adapters::remember(model, handle, Adapter::Lora(lora_digest(file)));
    }
    handle
}

/// An empty adapter of llama.cpp's own for a sidecar that is for `model`.
///
/// # Safety
/// `model` must be a live model of the llama.cpp that `init` belongs to.
unsafe fn stand_in(
    init: Init,
    model: *mut LlamaModel,
    file: &Path,
) -> Result<*mut LlamaAdapter, String> {
    let host = Host::of(init as usize).map_err(|error| error.to_string())?;
    let source = Source::read(file).map_err(|error| error.to_string())?;
    let source = Arc::new(source);
    let alone = [(Arc::clone(&source), 1.0)];
    // SAFETY: the caller vouches for `model`.
    unsafe {
        shape::check(host.model, model, &alone).map_err(|error| error.to_string())?;
        usage::tell(host.model, model, &alone);
    }
    let failed = |why: String| format!("{}: {why}", file.display());
    let mut empty = memory_file().map_err(|error| failed(error.to_string()))?;
    write_empty_lora(&source.sidecar, &mut empty).map_err(|error| failed(error.to_string()))?;
    // SAFETY: the path is NUL-terminated, and the file is open until the call is over.
    let handle = unsafe { init(model, path_of(&empty).as_ptr()) };
    if handle.is_null() {
        return Err(failed(
            "llama.cpp did not take the adapter that is to stand for it".into(),
        ));
    }
    log::info(format_args!(
        "{}: loaded as an adapter, {} layers",
        file.display(),
        source.sidecar.layers.len()
    ));
    adapters::remember(model, handle, Adapter::StandIn(source));
    enable();
    Ok(handle)
}

/// `llama_adapter_lora_free`.
unsafe extern "C-unwind" fn free(adapter: *mut LlamaAdapter, caller: usize) {
    type Free = unsafe extern "C-unwind" fn(*mut LlamaAdapter);
    adapters::forget(adapter);
    let free = function::<Free>(None, c"llama_adapter_lora_free", caller);
    // SAFETY: the caller's argument, passed on.
    unsafe { free(adapter) }
}

/// What [`set`] returns when a context cannot have what it was given; llama.cpp returns 0.
const REFUSED: i32 = -1;

/// `llama_set_adapters_lora`.
unsafe extern "C-unwind" fn set(
    context: *mut LlamaContext,
    adapters: *mut *mut LlamaAdapter,
    count: usize,
    scales: *mut f32,
    caller: usize,
) -> i32 {
    type Set = unsafe extern "C-unwind" fn(
        *mut LlamaContext,
        *mut *mut LlamaAdapter,
        usize,
        *mut f32,
    ) -> i32;
    let state = contexts::find(context);
    let known = state
        .as_ref()
        .map(|state| state.host.adapter.llama_set_adapters_lora as Set);
    let set = function(known, c"llama_set_adapters_lora", caller);
    let given: &[*mut LlamaAdapter] = match count == 0 || adapters.is_null() || scales.is_null() {
        true => &[],
        // SAFETY: the caller's arrays have `count` elements.
        false => unsafe { std::slice::from_raw_parts(adapters, count) },
    };
    // llama-cpp-python sets what could not be loaded, which llama.cpp would not survive.
    if given.iter().any(|handle| handle.is_null()) {
        let error = "an adapter that could not be loaded cannot be set";
        log::error(error);
        if let Some(state) = state {
            state.refuse(error);
            enable();
        }
        return REFUSED;
    }
    let (mut kept, mut kept_scales, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (i, handle) in given.iter().enumerate() {
        // SAFETY: as above.
        let scale = unsafe { *scales.add(i) };
        let adapter = adapters::find(*handle);
        if let Adapter::Lora(_) = adapter {
            kept.push(*handle);
            kept_scales.push(scale);
        }
        all.push((adapter, scale));
    }
    // SAFETY: arrays of as many elements; the rest are the caller's arguments.
    let status = unsafe {
        set(
            context,
            kept.as_mut_ptr(),
            kept.len(),
            kept_scales.as_mut_ptr(),
        )
    };
    let Some(state) = state else {
        if kept.len() < given.len() {
            log::error("a sidecar cannot be set as an adapter of a context that is not known");
            return REFUSED;
        }
        return status;
    };
    // SAFETY: the caller's context, which is that of `state`.
    match unsafe { state.set_adapters(context, all) } {
        Ok(()) => status,
        Err(error) => {
            log::error(error);
            REFUSED
        }
    }
}
