//! What happens in the functions that stand in, except for a context's creation.

use std::ffi::{c_int, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use jola_edit::graph::{GgmlContext, GgmlTensor};

use super::batches;
use super::pass::{die, function};
use super::sites::Site;
use crate::batch;
use crate::cells::Inputs;
use crate::contexts;
use crate::control_vector::ControlVector;
use crate::host::{ByValue, Host, LlamaContext, Process};
use crate::log;
use crate::operand::{is_output_projection, may_matter, product, Product};
use crate::request::{defaults, enabled};
use crate::state::ContextState;

/// Runs `body`, whose panics must not reach the host.
fn caught<T>(body: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(body)).ok()
}

/// `ggml_mul_mat`.
pub(super) unsafe extern "C-unwind" fn mul_mat(
    graph: *mut GgmlContext,
    a: *mut GgmlTensor,
    b: *mut GgmlTensor,
    caller: usize,
) -> *mut GgmlTensor {
    let site = match Site::of(caller) {
        Ok(site) => site,
        Err(error) => die(error),
    };
    if !enabled() {
        // SAFETY: the caller's arguments, passed on.
        return unsafe { (site.ggml_mul_mat)(graph, a, b) };
    }
    let build = || {
        // SAFETY: the operands are live tensors of this ggml (the caller's contract).
        unsafe {
            match contexts::current() {
                None => refuse_unknown(&site, a),
                Some(state) if may_matter(site.name(b).to_bytes()) => {
                    return edited_mul_mat(&site, &state, graph, a, b);
                }
                Some(_) => {}
            }
            (site.ggml_mul_mat)(graph, a, b)
        }
    };
    caught(build).unwrap_or_else(|| die("internal error while a graph was built"))
}

/// The product `a × b` where `b` may be head outputs.
///
/// # Safety
/// `graph`, `a` and `b` must be live objects of the site's ggml.
unsafe fn edited_mul_mat(
    site: &Site,
    state: &ContextState,
    graph: *mut GgmlContext,
    a: *mut GgmlTensor,
    b: *mut GgmlTensor,
) -> *mut GgmlTensor {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let name = |tensor| site.name(tensor).to_str().unwrap_or_default();
        let Some(product) = product(name(a), name(b)) else {
            return (site.ggml_mul_mat)(graph, a, b);
        };
        let b = state.operand(product, graph, a, b);
        let result = (site.ggml_mul_mat)(graph, a, b);
        if let Product::Rotation(layer) = product {
            state.name_unrotated(result, layer);
        }
        result
    }
}

/// A model's graph is being built, and not for a context in a call that this library knows: it
/// must not be computed without the edits that were asked for. Measuring a model computes
/// nothing. Where other contexts are known, the graph is none that answers anybody: it is built
/// by a call that only prepares, or for training.
///
/// # Safety
/// `a` must be a live tensor of the site's ggml.
unsafe fn refuse_unknown(site: &Site, a: *mut GgmlTensor) {
    // SAFETY: the caller vouches for `a`.
    let computes = unsafe {
        let name = site.name(a).to_str().unwrap_or_default();
        is_output_projection(name) && !(site.ggml_get_data)(a).is_null()
    };
    if !computes || matches!(defaults(), Ok(None)) {
        return;
    }
    if contexts::any_was_followed() {
        static SAID: Once = Once::new();
        SAID.call_once(|| log::warning("a graph is built outside of decoding: it is not edited"));
        return;
    }
    die(
        "a context was created in a way that this library does not know (llama.cpp too old or \
         too new, or partly linked in statically); stopping before it computes without the \
         edits",
    );
}

type OfBatch = unsafe extern "C-unwind" fn(*mut LlamaContext, ByValue) -> i32;

/// `llama_decode`.
pub(super) unsafe extern "C-unwind" fn decode(
    context: *mut LlamaContext,
    batch: *const ByValue,
    caller: usize,
) -> i32 {
    let own = |host: &Host| Some(host.llama.llama_decode);
    // SAFETY: the caller's arguments, passed on; `batch` points to the caller's struct.
    let call = |decode: OfBatch| unsafe { decode(context, *batch) };
    // SAFETY: as above.
    let inputs = || Some(Inputs::Known(unsafe { batch::read(&*batch) }));
    // SAFETY: the host's own context.
    unsafe { compute(context, own, c"llama_decode", caller, inputs, call) }
}

/// `llama_encode`.
pub(super) unsafe extern "C-unwind" fn encode(
    context: *mut LlamaContext,
    batch: *const ByValue,
    caller: usize,
) -> i32 {
    let own = |host: &Host| Some(host.llama.llama_encode);
    // SAFETY: the caller's arguments, passed on; `batch` points to the caller's struct.
    let call = |encode: OfBatch| unsafe { encode(context, *batch) };
    // SAFETY: the host's own context.
    unsafe { compute(context, own, c"llama_encode", caller, || None, call) }
}

/// `LLAMA_PROCESS_TYPE_ENCODE`.
const ENCODE: c_int = 0;

/// `llama_process`: both of them in newer versions.
pub(super) unsafe extern "C-unwind" fn process(
    context: *mut LlamaContext,
    kind: c_int,
    batch: *mut c_void,
    caller: usize,
) -> i32 {
    // SAFETY: the caller's arguments, passed on.
    let call = |process: Process| unsafe { process(context, kind, batch) };
    let inputs = || (kind != ENCODE).then(|| batches::inputs(batch));
    let own = |host: &Host| host.process;
    // SAFETY: the host's own context.
    unsafe { compute(context, own, c"llama_process", caller, inputs, call) }
}

/// A status of `llama_decode` that says "fatal error", and `llama_encode`'s for any.
const FATAL: i32 = -3;

/// Has `call` call the host's function, called `name` and `own` in a known host, in whose
/// graphs the context's edits then take part. Its C++ exceptions go on to the caller
/// (llama-server catches them and fails the requests concerned); what was entered here is left
/// by then. `inputs` tells what will be cached, if anything.
///
/// # Safety
/// `context` must be a live context that no other thread uses.
unsafe fn compute<F: Copy>(
    context: *mut LlamaContext,
    own: fn(&Host) -> Option<F>,
    name: &CStr,
    caller: usize,
    inputs: impl FnOnce() -> Option<Inputs>,
    call: impl FnOnce(F) -> i32,
) -> i32 {
    let state = contexts::find(context);
    let known = state.as_ref().and_then(|state| own(state.host));
    let function = function(known, name, caller);
    let Some(state) = state.filter(|_| enabled()) else {
        return call(function);
    };
    let entered = contexts::enter(&state);
    // SAFETY: the caller vouches for `context`, which is that of `state`.
    let result = unsafe { follow(&state, context, inputs(), || call(function)) };
    drop(entered);
    result.unwrap_or_else(|error| {
        log::error(error);
        FATAL
    })
}

/// Computes by `call` what `inputs` tells, on cells of the edits in force.
///
/// # Safety
/// As for [`compute`]; `context` must be that of `state`, and entered.
unsafe fn follow(
    state: &ContextState,
    context: *mut LlamaContext,
    inputs: Option<Inputs>,
    call: impl FnOnce() -> i32,
) -> Result<i32, String> {
    let inputs = inputs.unwrap_or_else(|| Inputs::Known(Vec::new()));
    // SAFETY: the caller vouches for `context`.
    let prepared = unsafe { state.prepare(context, &inputs) }.map_err(|e| e.to_string())?;
    let status = call();
    // SAFETY: as above.
    unsafe { state.note(context, &inputs, &prepared, status) }.map_err(|e| e.to_string())?;
    if status == 0 {
        state.after_compute().map_err(|error| error.to_string())?;
    }
    Ok(status)
}

/// `llama_free`.
pub(super) unsafe extern "C-unwind" fn free(context: *mut LlamaContext, caller: usize) {
    let state = contexts::forget(context);
    let known = state.as_ref().map(|state| state.host.llama.llama_free);
    let free = function(known, c"llama_free", caller);
    // SAFETY: the caller's argument, passed on. The edits' rows go when `state` is dropped, after
    // the graphs that hold them.
    unsafe { free(context) }
}

/// `llama_set_adapter_cvec`.
///
/// # Safety
/// As for llama.cpp's function.
pub(super) unsafe fn set_adapter_cvec(
    context: *mut LlamaContext,
    data: *const f32,
    len: usize,
    n_embd: i32,
    il_start: i32,
    il_end: i32,
) -> i32 {
    type Set = unsafe extern "C" fn(*mut LlamaContext, *const f32, usize, i32, i32, i32) -> i32;
    let state = contexts::find(context);
    let known = state
        .as_ref()
        .map(|state| state.host.llama.llama_set_adapter_cvec as Set);
    let set = function(known, c"llama_set_adapter_cvec", 0);
    // SAFETY: the caller's arguments, passed on.
    let status = unsafe { set(context, data, len, n_embd, il_start, il_end) };
    if let (0, Some(state)) = (status, state) {
        let vector = (!data.is_null() && len > 0).then(|| ControlVector {
            // SAFETY: llama.cpp has just read `len` floats there.
            data: unsafe { std::slice::from_raw_parts(data, len) }.to_vec(),
            n_embd,
            il_start,
            il_end,
        });
        state.remember_control_vector(vector);
    }
    status
}
