//! The user's control vector: setting one makes llama.cpp forget the graphs that it keeps.

use crate::host::{Host, LlamaContext};

/// A control vector, as `llama_set_adapter_cvec` was given it.
pub struct ControlVector {
    /// Its values.
    pub data: Vec<f32>,
    /// Values of a layer.
    pub n_embd: i32,
    /// First layer.
    pub il_start: i32,
    /// Last layer.
    pub il_end: i32,
}

/// Makes llama.cpp forget the graphs that it keeps: setting a control vector, even the same or
/// none, does that in all versions.
///
/// # Safety
/// `context` must be alive, of `host`, and used by no other thread.
pub unsafe fn force_rebuild(
    host: &Host,
    context: *mut LlamaContext,
    vector: Option<&ControlVector>,
) {
    let set = host.llama.llama_set_adapter_cvec;
    // SAFETY: the data are as the user gave them, or there are none.
    unsafe {
        match vector {
            None => set(context, std::ptr::null(), 0, 0, 0, 0),
            Some(v) => set(
                context,
                v.data.as_ptr(),
                v.data.len(),
                v.n_embd,
                v.il_start,
                v.il_end,
            ),
        };
    }
}
