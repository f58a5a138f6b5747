//! Models that an edit must not be given: what it says of a layer would be ambiguous, or not be
//! what the layer's weights take.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;

use jola_edit::{EncoderDecoder, Folded, Looped};
use llama_cpp_sys_2 as sys;

use crate::Error;

/// Refuses models with both an encoder and a decoder, those that run a layer several times, and
/// those with folded weights.
///
/// # Errors
/// [`Error::EncoderDecoder`], [`Error::Looped`] and [`Error::Folded`].
///
/// # Safety
/// `ctx` must be a live context.
pub(super) unsafe fn check(ctx: NonNull<sys::llama_context>) -> Result<(), Error> {
    // SAFETY: the context is alive, and with it its model.
    unsafe {
        let model = sys::llama_get_model(ctx.as_ptr());
        EncoderDecoder::refuse(
            sys::llama_model_has_encoder(model),
            sys::llama_model_has_decoder(model),
        )?;
        let text = |key: &str| metadata(model, key);
        Folded::refuse(|key| text(key).is_some())?;
        let number = |key: &str| text(key)?.parse().ok();
        Looped::refuse(&text("general.architecture").unwrap_or_default(), number)?;
    }
    Ok(())
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
