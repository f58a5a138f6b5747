//! ggml as linked into this crate: its function table for [`jola_edit::graph`] and its own
//! dequantisation, which the trainer uses so that it trains on exactly the numbers that
//! llama.cpp serves.

use jola_edit::graph::{GgmlApi, GgmlTableApi};
use llama_cpp_sys_2 as sys;

use crate::Error;

/// A table of linked ggml functions.
// Both sides are the same C functions. The table names ggml's structs with its own opaque
// types, so only the pointee names of pointers differ; ggml_init takes by value a struct
// that is #[repr(C)] with the same three fields on both sides.
macro_rules! linked {
    ($table:ident: $($name:ident: $function:ty,)*) => {
        $table {
            $($name: {
                let function = sys::$name as *const ();
                // SAFETY: the field has the function's C signature, as said above.
                unsafe { std::mem::transmute::<*const (), $function>(function) }
            }),*
        }
    };
}

/// The linked ggml functions.
pub(crate) fn api() -> GgmlApi {
    macro_rules! table {
        ($($functions:tt)*) => { linked!(GgmlApi: $($functions)*) };
    }
    jola_edit::for_each_ggml_function!(table)
}

/// The linked ggml functions that tables of edits need.
pub(crate) fn table_api() -> GgmlTableApi {
    macro_rules! table {
        ($($functions:tt)*) => { linked!(GgmlTableApi: $($functions)*) };
    }
    jola_edit::for_each_ggml_table_function!(table)
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

/// Turns whole rows of floats into blocks of `ggml_type`, as llama.cpp's own quantisation does
/// without an importance matrix. `row` is the length of one row.
///
/// # Errors
/// [`Error::Quantize`] for a type that ggml does not quantise to, or not without an importance
/// matrix, and for values that are not whole rows or rows that are not whole blocks.
pub fn quantize(ggml_type: u32, values: &[f32], row: usize) -> Result<Vec<u8>, Error> {
    let fail = |reason: String| Error::Quantize { ggml_type, reason };
    if let Some(obstacle) = quantize_obstacle(ggml_type) {
        return Err(fail(obstacle.to_owned()));
    }
    // SAFETY: the id is below GGML_TYPE_COUNT, for which ggml has a static table.
    let traits = unsafe { &*sys::ggml_get_type_traits(ggml_type) };
    let block = usize::try_from(traits.blck_size).unwrap_or(0);
    if row == 0 || block == 0 || !row.is_multiple_of(block) {
        return Err(fail(format!(
            "rows of {row} are not whole blocks of {block}"
        )));
    }
    if !values.len().is_multiple_of(row) {
        let len = values.len();
        return Err(fail(format!("{len} values are not whole rows of {row}")));
    }
    let len = values.len() / block * traits.type_size;
    // ggml writes its block structs, which are aligned to at most 8 bytes.
    let mut aligned = vec![0u64; len.div_ceil(8)];
    let rows = (values.len() / row) as i64;
    // SAFETY: `values` holds `rows` rows of `row` floats, `aligned` their blocks; the type
    // needs no importance matrix, so null is allowed for it.
    let written = unsafe {
        sys::ggml_quantize_chunk(
            ggml_type,
            values.as_ptr(),
            aligned.as_mut_ptr().cast(),
            0,
            rows,
            row as i64,
            std::ptr::null(),
        )
    };
    if written != len {
        return Err(fail(format!("ggml wrote {written} bytes, expected {len}")));
    }
    let mut bytes: Vec<u8> = aligned.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.truncate(len);
    Ok(bytes)
}

/// Why [`quantize`] refuses a type, `None` if it does not.
pub fn quantize_obstacle(ggml_type: u32) -> Option<&'static str> {
    // Types for which ggml_quantize_chunk would stop the process: integers, f64 and the
    // blocks that only hold activations.
    const NOT_WEIGHTS: [u32; 7] = [
        sys::GGML_TYPE_Q8_1,
        sys::GGML_TYPE_Q8_K,
        sys::GGML_TYPE_I8,
        sys::GGML_TYPE_I16,
        sys::GGML_TYPE_I32,
        sys::GGML_TYPE_I64,
        sys::GGML_TYPE_F64,
    ];
    if jola_edit::gguf::GgmlType::from_id(ggml_type).is_none() || ggml_type >= sys::GGML_TYPE_COUNT
    {
        return Some("no such type in this ggml");
    }
    if NOT_WEIGHTS.contains(&ggml_type) {
        return Some("ggml does not quantise weights to it");
    }
    // SAFETY: a comparison of ids.
    let needs_imatrix = unsafe { sys::ggml_quantize_requires_imatrix(ggml_type) };
    needs_imatrix.then_some("it needs an importance matrix")
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

    #[test]
    fn what_is_quantised_comes_back() {
        let values: Vec<f32> = (0..512).map(|i| (i as f32 / 100.0).sin()).collect();
        for (id, error) in [
            (sys::GGML_TYPE_F32, 0.0),
            (sys::GGML_TYPE_F16, 1e-3),
            (sys::GGML_TYPE_BF16, 1e-2),
            (sys::GGML_TYPE_Q8_0, 1e-2),
            (sys::GGML_TYPE_Q4_1, 0.1),
            (sys::GGML_TYPE_Q4_K, 0.1),
        ] {
            let bytes = quantize(id, &values, 256).unwrap();
            let mut out = vec![0.0; 512];
            dequantize(id, &bytes, &mut out).unwrap();
            for (found, expected) in out.iter().zip(&values) {
                assert!(
                    (found - expected).abs() <= error,
                    "type {id}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn types_and_rows_that_do_not_quantise_are_errors() {
        let values = [0.0; 64];
        for id in [
            sys::GGML_TYPE_I32,
            sys::GGML_TYPE_Q8_K,
            sys::GGML_TYPE_IQ1_S,
            4,
            9999,
        ] {
            assert!(quantize(id, &values, 64).is_err(), "type {id}");
        }
        assert!(quantize(sys::GGML_TYPE_Q8_0, &values, 16).is_err());
        assert!(quantize(sys::GGML_TYPE_Q8_0, &values[..40], 32).is_err());
        assert!(quantize(sys::GGML_TYPE_F32, &values, 0).is_err());
    }
}
