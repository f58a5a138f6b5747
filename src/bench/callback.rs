//! Edits by llama.cpp's eval callback: after each `kqv_out-<layer>` is computed, its values are
//! fetched, edited and put back. What programs do that cannot change the graph, and here the
//! rival to measure.

use std::ffi::{c_void, CStr};

use jola_edit::{DenseEdit, EditSet};
use llama_cpp_sys_2 as sys;

use crate::context::{Context, ContextParams};
use crate::model::Model;
use crate::Error;

/// The edits, at an address that a context may hold.
#[derive(Debug)]
pub(super) struct CallbackEdits {
    edits: EditSet,
    values: Vec<f32>,
}

impl CallbackEdits {
    pub(super) fn new(edits: &EditSet) -> Self {
        Self {
            edits: edits.clone(),
            values: Vec::new(),
        }
    }

    /// A context with these edits; it must be dropped before them.
    pub(super) fn context(
        self: &mut Box<Self>,
        model: &Model,
        params: &ContextParams,
    ) -> Result<Context, Error> {
        let address: *mut Self = &raw mut **self;
        // SAFETY: the box stays where it is for as long as the context lives, and only the
        // context's decoding, one at a time, uses it.
        unsafe {
            Context::create(model, params, |raw| {
                raw.cb_eval = Some(on_eval);
                raw.cb_eval_user_data = address.cast();
            })
        }
    }
}

/// Asked (`ask`) whether a tensor is wanted, then called when it is computed.
unsafe extern "C" fn on_eval(tensor: *mut sys::ggml_tensor, ask: bool, edits: *mut c_void) -> bool {
    // SAFETY: what `context` set; llama.cpp calls from the decoding thread only.
    let edits = unsafe { &mut *edits.cast::<CallbackEdits>() };
    // SAFETY: a live tensor; its name is NUL-terminated.
    let name = unsafe { CStr::from_ptr(sys::ggml_get_name(tensor)) };
    let layer = name
        .to_str()
        .ok()
        .and_then(|name| name.strip_prefix("kqv_out-"));
    let edit = layer.and_then(|layer| edits.edits.layers.get(&layer.parse().ok()?));
    if ask {
        return edit.is_some();
    }
    if let Some(edit) = edit {
        // SAFETY: a computed tensor of the head outputs: contiguous 32-bit floats.
        unsafe { apply(tensor, edit, &mut edits.values) };
    }
    true
}

/// # Safety
/// `tensor` must be computed, of contiguous 32-bit floats.
unsafe fn apply(tensor: *mut sys::ggml_tensor, edit: &DenseEdit, values: &mut Vec<f32>) {
    // SAFETY: `values` has room for all elements, 4 bytes each.
    unsafe {
        let elements = sys::ggml_nelements(tensor) as usize;
        values.resize(elements, 0.0);
        let bytes = elements * size_of::<f32>();
        sys::ggml_backend_tensor_get(tensor, values.as_mut_ptr().cast(), 0, bytes as _);
        edit.apply(values);
        sys::ggml_backend_tensor_set(tensor, values.as_ptr().cast(), 0, bytes as _);
    }
}
