//! A context's creation: the place where edits are accepted or refused.

use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crate::contexts;
use crate::host::{ByValue, Host, LlamaContext, LlamaModel};
use crate::log;
use crate::request::{defaults, enabled, Request};
use crate::resolve::lookup;
use crate::shape::{self, ShapeError};
use crate::state::{ContextState, Outcome};
use crate::usage;

type Init = unsafe extern "C-unwind" fn(*mut LlamaModel, ByValue) -> *mut LlamaContext;

/// `llama_init_from_model`.
pub(super) unsafe extern "C-unwind" fn init_from_model(
    model: *mut LlamaModel,
    params: *const ByValue,
    caller: usize,
) -> *mut LlamaContext {
    // SAFETY: the caller's arguments, passed on.
    unsafe { init(c"llama_init_from_model", model, params, caller) }
}

/// `llama_new_context_with_model`, its older name.
pub(super) unsafe extern "C-unwind" fn new_context_with_model(
    model: *mut LlamaModel,
    params: *const ByValue,
    caller: usize,
) -> *mut LlamaContext {
    // SAFETY: the caller's arguments, passed on.
    unsafe { init(c"llama_new_context_with_model", model, params, caller) }
}

/// # Safety
/// As for `llama_init_from_model`; `params` points to the caller's struct.
unsafe fn init(
    name: &CStr,
    model: *mut LlamaModel,
    params: *const ByValue,
    caller: usize,
) -> *mut LlamaContext {
    let address = match lookup(name, caller) {
        Ok(address) => address,
        Err(error) => {
            log::error(error);
            return null_mut();
        }
    };
    // SAFETY: the function of this name has this type.
    let real = unsafe { std::mem::transmute::<usize, Init>(address) };
    // One of the two names calls the other; the outer call does the work.
    let nested = || contexts::current().is_some_and(|state| !state.is_created());
    if model.is_null() || nested() {
        // SAFETY: the caller's arguments, passed on.
        return unsafe { real(model, *params) };
    }
    let create = || {
        let host = match Host::of(address) {
            Ok(host) => host,
            // Without edits it is none of this library's business.
            // SAFETY: as above.
            Err(_) if !enabled() => return Ok(unsafe { real(model, *params) }),
            Err(error) => return Err(error.to_string()),
        };
        let request = defaults().map_err(|error| error.to_string())?;
        // SAFETY: as above.
        unsafe { followed(host, request, model, &|| real(model, *params)) }
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(create)) {
        Ok(Ok(context)) => context,
        Ok(Err(error)) => {
            log::error(format_args!("no context is created: {error}"));
            null_mut()
        }
        Err(_) => null_mut(),
    }
}

/// Whether a model that matches the edits was seen: one that does not, after it, is a draft
/// or an embedding model that works beside it.
static MATCHED: AtomicBool = AtomicBool::new(false);
/// Whether a context with edits exists or existed.
static EDITED: AtomicBool = AtomicBool::new(false);

/// Creates a context by `create` and follows it, or says why it cannot have the edits.
///
/// # Safety
/// `model` must be a live model of `host`, `create` must create a context of it.
unsafe fn followed(
    host: &'static Host,
    request: Option<Arc<Request>>,
    model: *mut LlamaModel,
    create: &dyn Fn() -> *mut LlamaContext,
) -> Result<*mut LlamaContext, String> {
    let check = |request: &Arc<Request>| {
        // SAFETY: the caller vouches for `model`.
        unsafe { shape::check(host.model, model, &request.sidecars) }.err()
    };
    let mismatch = request.as_ref().and_then(check);
    let wanted = if mismatch.is_some() { None } else { request };
    let edited = wanted.clone();
    let state = Arc::new(ContextState::new(host, model, wanted));
    let entered = contexts::enter(&state);
    let context = create();
    drop(entered);
    if context.is_null() {
        return Ok(context);
    }
    let allowed = match mismatch {
        // SAFETY: the context was just created.
        Some(mismatch) => unsafe { leave_alone(host, context, mismatch) },
        None => Ok(()),
    };
    let verdict = allowed.and_then(|()| accept(&state)).map(|ready| {
        if let Some(request) = edited.as_deref().filter(|_| ready) {
            // SAFETY: the caller vouches for `model`.
            unsafe { usage::tell(host.model, model, &request.sidecars) };
        }
    });
    if let Err(error) = verdict {
        // SAFETY: the context was just created and nobody has it.
        unsafe { (host.llama.llama_free)(context) };
        return Err(error);
    }
    // SAFETY: as above.
    unsafe { contexts::register(context, state) };
    Ok(context)
}

/// Whether a context has the edits that were asked for; an error where it should.
fn accept(state: &ContextState) -> Result<bool, String> {
    let Some(description) = state.describe() else {
        return Ok(false);
    };
    match state.outcome().map_err(|error| error.to_string())? {
        Outcome::Ready => {
            MATCHED.store(true, Ordering::Relaxed);
            EDITED.store(true, Ordering::Relaxed);
            log::info(description);
            return Ok(true);
        }
        Outcome::Measured => {
            MATCHED.store(true, Ordering::Relaxed);
            log::debug("a context without weights: measured, not edited");
        }
        // A second context of the same model that runs other layers, such as those that
        // predict several tokens at once.
        Outcome::NoLayer if EDITED.load(Ordering::Relaxed) => {
            state.give_up();
            log::info("a context runs none of the edited layers: left alone");
        }
        Outcome::NoLayer => return Err(state.no_layer_error().to_string()),
    }
    Ok(false)
}

/// Whether a context of another model than the sidecar's may go on without edits: beside
/// one that has them, or when it computes embeddings.
///
/// # Safety
/// `context` must be a live context of `host`.
unsafe fn leave_alone(
    host: &Host,
    context: *mut LlamaContext,
    mismatch: ShapeError,
) -> Result<(), String> {
    // SAFETY: the caller vouches for `context`.
    let pooled = unsafe { (host.llama.llama_pooling_type)(context) } > 0;
    if MATCHED.load(Ordering::Relaxed) {
        log::warning(format_args!("another model is left alone: {mismatch}"));
    } else if pooled {
        log::warning(format_args!("an embedding model is left alone: {mismatch}"));
    } else {
        return Err(mismatch.to_string());
    }
    Ok(())
}
