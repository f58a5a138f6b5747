//! The C API of libjola, header `jola.h`.
//!
//! Three ways to use it:
//!
//! 1. No code: `LLAMA_JOLA=edit.gguf[:STRENGTH][,…] LD_PRELOAD=libjola.so PROGRAM`, or
//!    `llama-jola with edit.gguf -- PROGRAM`.
//! 2. In a program that links shared llama.cpp libraries: link `-ljola` BEFORE `-lllama -lggml
//!    -lggml-base` (or preload it), call `jola_start()` before the first context is created,
//!    then `jola_set_edits(ctx, …)` whenever you like. Sidecars are named as on the command
//!    line: `FILE` or `FILE:STRENGTH`, split at the last colon.
//! 3. In a program with llama.cpp linked in statically: `jola_cb_eval_init` fills `cb_eval` and
//!    `cb_eval_user_data` of your context parameters. Each edited layer then costs a
//!    synchronisation with its device; `docs/reference/plugin.md` has figures.
//!
//! Functions that can fail return a status; `jola_last_error()` then tells more. All may be
//! called from any thread; a context only from one thread at a time, as llama.cpp demands.

use std::cell::RefCell;
use std::ffi::{c_char, c_void, CStr, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use jola_edit::graph::GgmlTensor;
use jola_edit::Sidecar;

use crate::cb_eval::{CbEval, CbEvalHost, EvalCallback};
use crate::contexts;
use crate::host::{LlamaContext, LlamaModel};
use crate::request::{enable, set_defaults, Request};
use crate::shape;
use crate::state::StateError;
use crate::usage;

/// Outcome of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JolaStatus {
    /// The call did what it was to do.
    Ok = 0,
    /// A null pointer, text that is not UTF-8, or a malformed `FILE:STRENGTH`.
    Argument = 1,
    /// A sidecar that cannot be read, or sidecars that do not go together.
    Sidecar = 2,
    /// The sidecar is for another model.
    Model = 3,
    /// The edits could not become part of the model's graph.
    Graph = 4,
    /// The context was created before `jola_start`, or past this library.
    Context = 5,
    /// A defect of this library.
    Internal = 6,
}

/// A call that failed: what it returns, and what [`jola_last_error`] says then.
struct Failure(JolaStatus, String);

impl Failure {
    fn of(status: JolaStatus, error: impl std::fmt::Display) -> Self {
        Self(status, error.to_string())
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs `body`; its failure or panic becomes a status and the thread's last error.
fn run(body: impl FnOnce() -> Result<(), Failure>) -> JolaStatus {
    let Failure(status, text) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return JolaStatus::Ok,
        Ok(Err(failure)) => failure,
        Err(_) => Failure(JolaStatus::Internal, "internal error".into()),
    };
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // A thread that is being torn down has nobody to read it.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
    status
}

/// The text of a C string.
///
/// # Safety
/// `text` must be null or NUL-terminated and outlive the result.
unsafe fn utf8<'a>(text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::of(JolaStatus::Argument, "a null pointer"));
    }
    // SAFETY: the caller vouches for `text`.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|_| Failure::of(JolaStatus::Argument, "a text that is not UTF-8"))
}

/// Most sidecars of one call: a length beyond is not one.
const MAX_SPECS: usize = 4096;

/// Reads the sidecars `specs`; none for a length of 0.
///
/// # Safety
/// `specs` must point to `n_specs` NUL-terminated strings.
unsafe fn read(specs: *const *const c_char, n_specs: usize) -> Result<Option<Request>, Failure> {
    if n_specs == 0 {
        return Ok(None);
    }
    if specs.is_null() {
        return Err(Failure::of(JolaStatus::Argument, "a null pointer"));
    }
    if n_specs > MAX_SPECS {
        let text = format!("{n_specs} sidecars, at most {MAX_SPECS} are possible");
        return Err(Failure::of(JolaStatus::Argument, text));
    }
    // SAFETY: the caller vouches for `specs`.
    let specs = unsafe { std::slice::from_raw_parts(specs, n_specs) };
    // SAFETY: as above.
    let specs = specs.iter().map(|spec| unsafe { utf8(*spec) });
    let specs = specs.collect::<Result<Vec<&str>, _>>()?;
    Request::read(specs)
        .map(Some)
        .map_err(|error| Failure::of(JolaStatus::Sidecar, error))
}

/// Version of this library, as "0.1.0".
#[no_mangle]
pub extern "C" fn jola_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What the calling thread's last failed call had to say; empty if none failed. Valid until
/// the thread's next failing call.
#[no_mangle]
pub extern "C" fn jola_last_error() -> *const c_char {
    LAST_ERROR
        .try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// Follows contexts that are created from now on, so that they can be given edits. Not
/// needed when LLAMA_JOLA is set or default edits are.
#[no_mangle]
pub extern "C" fn jola_start() {
    enable();
}

/// Sets the edits of contexts to come, instead of those of LLAMA_JOLA: `n_specs` sidecars,
/// each "FILE" or "FILE:STRENGTH", applied in this order. With 0, contexts to come have none. A
/// context whose model is not the sidecars' will then be refused (null).
///
/// # Safety
/// `specs` must point to `n_specs` NUL-terminated strings.
#[no_mangle]
pub unsafe extern "C" fn jola_set_default_edits(
    specs: *const *const c_char,
    n_specs: usize,
) -> JolaStatus {
    run(|| {
        // SAFETY: the caller vouches for `specs`.
        let request = unsafe { read(specs, n_specs)? };
        set_defaults(request.map(Arc::new));
        Ok(())
    })
}

/// Replaces the edits of a context and DROPS ITS CACHED KEYS AND VALUES, which were computed
/// under other edits: every sequence starts again at position 0. On failure the context
/// keeps the edits it had. Should llama.cpp not rebuild its graph, the next llama_decode
/// fails with -3.
///
/// # Safety
/// `ctx` must be a live context that no other thread uses during the call; `specs` must
/// point to `n_specs` NUL-terminated strings.
#[no_mangle]
pub unsafe extern "C" fn jola_set_edits(
    ctx: *mut LlamaContext,
    specs: *const *const c_char,
    n_specs: usize,
) -> JolaStatus {
    run(|| {
        // SAFETY: the caller vouches for both.
        unsafe {
            let request = read(specs, n_specs)?.map(Arc::new);
            change(ctx, request)
        }
    })
}

/// Takes all edits off a context and DROPS ITS CACHED KEYS AND VALUES, as jola_set_edits.
///
/// # Safety
/// `ctx` must be a live context that no other thread uses during the call.
#[no_mangle]
pub unsafe extern "C" fn jola_clear_edits(ctx: *mut LlamaContext) -> JolaStatus {
    // SAFETY: the caller vouches for `ctx`.
    run(|| unsafe { change(ctx, None) })
}

/// # Safety
/// As for [`jola_set_edits`].
unsafe fn change(ctx: *mut LlamaContext, request: Option<Arc<Request>>) -> Result<(), Failure> {
    let Some(state) = contexts::find(ctx).filter(|state| state.was_expected()) else {
        return Err(Failure::of(
            JolaStatus::Context,
            "this context is not known: call jola_start() before creating it, and load libjola \
             before llama.cpp (link it first, or preload it)",
        ));
    };
    // SAFETY: the caller vouches for `ctx`; it is the context of `state`.
    unsafe { state.change(ctx, request) }.map_err(|error| {
        let status = match &error {
            StateError::Shape(_) => JolaStatus::Model,
            StateError::Compose(_) => JolaStatus::Sidecar,
            StateError::Graph { .. } | StateError::NotRebuilt => JolaStatus::Graph,
        };
        Failure::of(status, error)
    })
}

/// Describes a sidecar as one JSON object in `*json`, to be freed by jola_string_free.
///
/// # Safety
/// `path` must be NUL-terminated, `json` must be valid for a pointer.
#[no_mangle]
pub unsafe extern "C" fn jola_inspect(path: *const c_char, json: *mut *mut c_char) -> JolaStatus {
    run(|| {
        if json.is_null() {
            return Err(Failure::of(JolaStatus::Argument, "a null pointer"));
        }
        // SAFETY: the caller vouches for `json`.
        unsafe { *json = null_mut() };
        // SAFETY: the caller vouches for `path`.
        let path = Path::new(unsafe { utf8(path)? });
        let sidecar =
            Sidecar::read(path).map_err(|error| Failure::of(JolaStatus::Sidecar, error))?;
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let text = serde_json::to_string(&sidecar.summary(bytes, None))
            .map_err(|error| Failure::of(JolaStatus::Internal, error))?;
        let text = CString::new(text).map_err(|error| Failure::of(JolaStatus::Internal, error))?;
        // SAFETY: the caller vouches for `json`.
        unsafe { *json = text.into_raw() };
        Ok(())
    })
}

/// Frees a text that this library returned; null is allowed.
///
/// # Safety
/// `text` must come from this library and not have been freed.
#[no_mangle]
pub unsafe extern "C" fn jola_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: made by CString::into_raw, freed once.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// Prepares edits that a callback applies: call it with the addresses of `cb_eval` and
/// `cb_eval_user_data` of your context parameters, before creating the context. A callback
/// of your own that stands there goes on being called. `*out` must be kept until the context
/// is freed, then freed by jola_cb_eval_free; one for each context.
///
/// # Safety
/// All pointers must be valid; `specs` must point to `n_specs` NUL-terminated strings; the
/// functions of `host` must be those of `model`'s llama.cpp.
#[no_mangle]
pub unsafe extern "C" fn jola_cb_eval_init(
    host: *const CbEvalHost,
    model: *const LlamaModel,
    specs: *const *const c_char,
    n_specs: usize,
    cb_eval: *mut EvalCallback,
    cb_eval_user_data: *mut *mut c_void,
    out: *mut *mut CbEval,
) -> JolaStatus {
    run(|| {
        let outputs = cb_eval.is_null() || cb_eval_user_data.is_null() || out.is_null();
        if host.is_null() || model.is_null() || outputs {
            return Err(Failure::of(JolaStatus::Argument, "a null pointer"));
        }
        // SAFETY: the caller vouches for every pointer; none is null.
        unsafe {
            *out = null_mut();
            let Some(request) = read(specs, n_specs)? else {
                return Err(Failure::of(JolaStatus::Argument, "no sidecar is named"));
            };
            shape::check((*host).model_api(), model, &request.sidecars)
                .map_err(|error| Failure::of(JolaStatus::Model, error))?;
            usage::tell((*host).model_api(), model, &request.sidecars);
            let edits = CbEval::new(*host, request, *cb_eval, *cb_eval_user_data);
            let edits = Box::into_raw(Box::new(edits));
            *cb_eval = Some(jola_cb_eval);
            *cb_eval_user_data = edits.cast();
            *out = edits;
        }
        Ok(())
    })
}

/// The callback that jola_cb_eval_init puts into the context parameters.
///
/// # Safety
/// To be called by llama.cpp with what jola_cb_eval_init made.
#[no_mangle]
pub unsafe extern "C" fn jola_cb_eval(
    tensor: *mut GgmlTensor,
    ask: bool,
    user_data: *mut c_void,
) -> bool {
    // SAFETY: llama.cpp passes the pointer that jola_cb_eval_init set and a live tensor.
    let call = || unsafe { (*user_data.cast::<CbEval>()).call(tensor, ask) };
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(false)
}

/// Whether the computations so far had their edits: TO BE CALLED AFTER THE FIRST
/// llama_decode, whose results are wrong when this fails.
///
/// # Safety
/// `edits` must come from jola_cb_eval_init and not have been freed.
#[no_mangle]
pub unsafe extern "C" fn jola_cb_eval_check(edits: *const CbEval) -> JolaStatus {
    run(|| {
        // SAFETY: the caller vouches for `edits`.
        let Some(edits) = (unsafe { edits.as_ref() }) else {
            return Err(Failure::of(JolaStatus::Argument, "a null pointer"));
        };
        edits
            .check()
            .map_err(|error| Failure::of(JolaStatus::Graph, error))
    })
}

/// Frees what jola_cb_eval_init made, after the context; null is allowed.
///
/// # Safety
/// `edits` must come from jola_cb_eval_init and not have been freed; its context must be.
#[no_mangle]
pub unsafe extern "C" fn jola_cb_eval_free(edits: *mut CbEval) {
    if !edits.is_null() {
        // SAFETY: made by Box::into_raw, freed once.
        drop(unsafe { Box::from_raw(edits) });
    }
}
