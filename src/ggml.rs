/*!
ggml as linked into this crate: its function table for [`jola_edit::graph`] and its own
dequantisation, which the trainer uses so that it trains on exactly the numbers that
llama.cpp serves.
*/

use jola_edit::graph::GgmlApi;
use llama_cpp_sys_2 as sys;

use crate::Error;

/// The linked ggml functions.
pub(crate) fn api() -> GgmlApi {
    // Both sides are the same C functions. The table names ggml's structs with its own opaque
    // types, so only the pointee names of pointers differ; ggml_init takes by value a struct
    // that is #[repr(C)] with the same three fields on both sides.
    macro_rules! table {
        ($($name:ident),* $(,)?) => {
            GgmlApi {
                $($name: {
                    let function = sys::$name as *const ();
                    #[allow(clippy::missing_transmute_annotations)] // the field gives the type
                    // SAFETY: the field has the function's C signature, as said above.
                    unsafe { std::mem::transmute(function) }
                }),*
            }
        };
    }
    table!(
        ggml_tensor_overhead,
        ggml_init,
        ggml_free,
        ggml_new_tensor_1d,
        ggml_set_name,
        ggml_nelements,
        ggml_nrows,
        ggml_mul,
        ggml_add,
        ggml_backend_alloc_ctx_tensors_from_buft,
        ggml_backend_tensor_set,
        ggml_backend_buffer_free,
    )
}

/// Turns the bytes of a tensor, or of whole rows of it, into floats exactly as ggml does
/// (its type traits' `to_float`). `ggml_type` is ggml's type id as it stands in GGUF;
/// `out` takes one float per element.
///
/// # Errors
/// [`Error::Dequantize`] for a type that ggml cannot turn into floats and for byte counts
/// that do not fit `out`.
pub fn dequantize(ggml_type: u32, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    let fail = |reason: String| Error::Dequantize { ggml_type, reason };
    if ggml_type >= sys::GGML_TYPE_COUNT {
        return Err(fail("no such type in this ggml".into()));
    }
    // SAFETY: the id is below GGML_TYPE_COUNT, for which ggml has a static table.
    let traits = unsafe { &*sys::ggml_get_type_traits(ggml_type) };
    let block = usize::try_from(traits.blck_size).unwrap_or(0);
    if block == 0 || !out.len().is_multiple_of(block) {
        return Err(fail(format!(
            "{} elements are not whole blocks of {block}",
            out.len()
        )));
    }
    let expected = out.len() / block * traits.type_size;
    if bytes.len() != expected {
        return Err(fail(format!(
            "{} elements take {expected} bytes, found {}",
            out.len(),
            bytes.len()
        )));
    }
    if ggml_type == sys::GGML_TYPE_F32 {
        for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = f32::from_le_bytes(raw.try_into().expect("chunks of 4"));
        }
        return Ok(());
    }
    let to_float = traits
        .to_float
        .ok_or_else(|| fail("ggml has no to_float for it".into()))?;
    // ggml reads its block structs, which are aligned to 2, 4 or 8 bytes: bytes that are not
    // aligned that far are copied first.
    let mut copy = Vec::new();
    let aligned: *const u8 = if bytes.as_ptr().align_offset(8) == 0 {
        bytes.as_ptr()
    } else {
        copy.resize(bytes.len().div_ceil(8), 0u64);
        // SAFETY: `copy` has room for bytes.len() bytes and does not overlap `bytes`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy.as_mut_ptr().cast(), bytes.len());
        }
        copy.as_ptr().cast()
    };
    // SAFETY: `aligned` holds the blocks of out.len() elements, `out` takes as many floats.
    unsafe { to_float(aligned.cast(), out.as_mut_ptr(), out.len() as i64) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_and_f16_come_out_unchanged() {
        let values = [1.0f32, -2.5, 0.0, 65504.0];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut out = [0.0; 4];
        dequantize(sys::GGML_TYPE_F32, &bytes, &mut out).unwrap();
        assert_eq!(out, values);
        let half: Vec<u8> = [0x3c00u16, 0xc100, 0x0000, 0x7bff]
            .iter()
            .flat_map(|h| h.to_le_bytes())
            .collect();
        dequantize(sys::GGML_TYPE_F16, &half, &mut out).unwrap();
        assert_eq!(out, values);
    }

    #[test]
    fn q8_0_blocks_follow_their_definition_at_any_alignment() {
        // one block: f16 scale 0.5, then 32 int8
        let mut raw = vec![0xff, 0x00, 0x38];
        raw.extend((0..32).map(|i| (i as i8 - 16) as u8));
        let mut out = [0.0; 32];
        dequantize(sys::GGML_TYPE_Q8_0, &raw[1..], &mut out).unwrap();
        for (i, value) in out.iter().enumerate() {
            assert_eq!(*value, 0.5 * (i as f32 - 16.0));
        }
    }

    #[test]
    fn wrong_sizes_and_types_are_errors() {
        let mut out = [0.0; 32];
        assert!(dequantize(sys::GGML_TYPE_Q8_0, &[0; 33], &mut out).is_err());
        assert!(dequantize(sys::GGML_TYPE_Q8_0, &[0; 34], &mut out[..31]).is_err());
        assert!(dequantize(sys::GGML_TYPE_COUNT, &[0; 34], &mut out).is_err());
        assert!(dequantize(sys::GGML_TYPE_I32, &[0; 128], &mut out).is_err());
    }
}
