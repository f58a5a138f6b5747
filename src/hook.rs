//! Edits inside llama.cpp's compute graph.
//!
//! llama.cpp calls back (`patches/jola-hook.h`) whenever it builds a graph and a layer's head
//! outputs are complete; the callback inserts the layer's product and sum there. The nodes
//! are ordinary graph nodes with operands in the memory of the layer's own device, so every
//! backend computes them and nothing is synchronised.
//!
//! [`Context::set_edits`](crate::Context::set_edits) is the safe way in. [`Hook`] is for
//! programs that own a raw `llama_context`.

use std::ffi::{c_void, CStr, CString};
use std::ptr::NonNull;

use jola_edit::graph::{DeviceEdits, GgmlContext, GgmlTensor};
use jola_edit::{EditSet, EncoderDecoder, Looped};
use llama_cpp_sys_2 as sys;

use crate::native::{self, ffi};
use crate::{ggml, Error};

/// Edits attached to a raw `llama_context`.
///
/// [`Self::detach`] takes the edits out again, and so does dropping it, which cannot say whether
/// it failed. Either must happen before `llama_free`.
pub struct Hook {
    ctx: NonNull<sys::llama_context>,
    /// Boxed: llama.cpp holds its address. Freed after the graphs that use it; `None` once it is
    /// taken out.
    edits: Option<Box<DeviceEdits>>,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook")
            .field("ctx", &self.ctx)
            .finish_non_exhaustive()
    }
}

// SAFETY: the hook's own state is Send and Sync; the context pointer is only used where the
// owner of the context calls `attach` or `release`, or drops the hook.
unsafe impl Send for Hook {}

impl Hook {
    /// Attaches `edits` to `ctx`: uploads the rows to the devices of their layers, rebuilds
    /// the graphs, and drops all cached keys and values, which earlier edits (or none) made.
    ///
    /// # Errors
    /// When memory is short, when the edit's width is not the graph's, when a layer with an
    /// edit never appeared in the graph, and for models with both an encoder and a decoder.
    /// The context is then without edits.
    ///
    /// # Safety
    /// `ctx` must be a live context, used by no other thread during the call, without
    /// another `Hook`, and must outlive the returned value.
    pub unsafe fn attach(ctx: NonNull<sys::llama_context>, edits: &EditSet) -> Result<Self, Error> {
        // SAFETY: the context is alive, and with it its model.
        let (encoder, decoder) = unsafe {
            let model = sys::llama_get_model(ctx.as_ptr());
            (
                sys::llama_model_has_encoder(model),
                sys::llama_model_has_decoder(model),
            )
        };
        EncoderDecoder::refuse(encoder, decoder)?;
        // SAFETY: as above.
        let text = |key: &str| unsafe { metadata(sys::llama_get_model(ctx.as_ptr()), key) };
        let number = |key: &str| text(key)?.parse().ok();
        Looped::refuse(&text("general.architecture").unwrap_or_default(), number)?;
        // SAFETY: api() is one ggml's; the buffer types come from that ggml.
        let edits = unsafe {
            DeviceEdits::upload(ggml::api(), edits, |layer| {
                ffi::jola_hook_layer_buft(ctx.as_ptr(), layer as i32).cast()
            })?
        };
        let edits = Box::new(edits);
        let user: *const DeviceEdits = &*edits;
        // SAFETY: `user` lives in a box that is freed after the graphs (see `detach_edits`).
        let status = unsafe {
            ffi::jola_hook_attach(ctx.as_ptr(), Some(edit_layer), user.cast_mut().cast())
        };
        clear_memory(ctx);
        if status != 0 {
            let error = Error::Hook(native::last_message());
            keep(edits);
            return Err(error);
        }
        let checked = edits.check();
        let hook = Self {
            ctx,
            edits: Some(edits),
        };
        match checked {
            Ok(()) => Ok(hook),
            Err(error) => hook.detach().and(Err(error.into())),
        }
    }

    /// Takes the edits out again: rebuilds the graphs without them and drops all cached keys and
    /// values.
    ///
    /// # Errors
    /// [`Error::Hook`] when the graphs cannot be built. The context must then not be used any
    /// more, only freed.
    pub fn detach(mut self) -> Result<(), Error> {
        self.detach_edits()
    }

    fn detach_edits(&mut self) -> Result<(), Error> {
        let Some(edits) = self.edits.take() else {
            return Ok(());
        };
        // SAFETY: the context is alive (contract of `attach`). When this returns 0 no graph
        // refers to the edits any more.
        let status = unsafe { ffi::jola_hook_detach(self.ctx.as_ptr()) };
        clear_memory(self.ctx);
        if status == 0 {
            return Ok(());
        }
        let error = Error::Hook(native::last_message());
        keep(edits);
        Err(error)
    }

    /// Takes the edits off a context that is about to be freed: as dropping, without
    /// building graphs that nobody will use.
    ///
    /// # Safety
    /// Nothing may be decoded with the context afterwards.
    pub unsafe fn release(mut self) {
        // SAFETY: the context is alive (contract of `attach`).
        unsafe {
            sys::llama_synchronize(self.ctx.as_ptr());
            ffi::jola_hook_release(self.ctx.as_ptr());
        }
        // Graphs that hold them are never computed again (contract).
        self.edits = None;
    }
}

/// The text of a short metadata key.
///
/// # Safety
/// `model` must be a live model.
unsafe fn metadata(model: *const sys::llama_model, key: &str) -> Option<String> {
    let key = CString::new(key).ok()?;
    let mut text = [0u8; 64];
    // SAFETY: the buffer is as long as it is said to be; llama.cpp terminates what it writes.
    let len = unsafe {
        sys::llama_model_meta_val_str(model, key.as_ptr(), text.as_mut_ptr().cast(), text.len())
    };
    if len < 0 {
        return None;
    }
    let text = CStr::from_bytes_until_nul(&text).ok()?;
    Some(text.to_str().ok()?.to_owned())
}

impl Drop for Hook {
    fn drop(&mut self) {
        // What a failure would leave to be freed is kept.
        let _ = self.detach_edits();
    }
}

/// Leaves edits in memory for good: graphs that could not be rebuilt may still refer to them.
fn keep(edits: Box<DeviceEdits>) {
    std::mem::forget(edits);
}

/// Called by llama.cpp while it builds a graph.
unsafe extern "C" fn edit_layer(
    user: *mut c_void,
    graph: *mut sys::ggml_context,
    cur: *mut sys::ggml_tensor,
    layer: i32,
) -> *mut sys::ggml_tensor {
    let (graph, cur) = (graph.cast::<GgmlContext>(), cur.cast::<GgmlTensor>());
    // SAFETY: `user` is the DeviceEdits of a live Hook; graph and cur come from llama.cpp.
    let edited = unsafe { (*user.cast::<DeviceEdits>()).apply(graph, cur, layer as u32) };
    edited.cast()
}

/// Forgets every cached key and value: they were computed under other edits.
fn clear_memory(ctx: NonNull<sys::llama_context>) {
    // SAFETY: the context is alive; models without a memory return null.
    unsafe {
        let memory = sys::llama_get_memory(ctx.as_ptr());
        if !memory.is_null() {
            sys::llama_memory_clear(memory, true);
        }
    }
}

/// Says how many tokens one sequence of `ctx` may hold, by which some models choose their
/// rotary factors.
///
/// # Safety
/// `ctx` must be a live context that has computed nothing yet.
pub(crate) unsafe fn set_sequence_length(ctx: NonNull<sys::llama_context>, n_tokens: u32) {
    // SAFETY: the caller vouches for the context.
    unsafe { ffi::jola_hook_set_sequence_length(ctx.as_ptr(), n_tokens) };
}
