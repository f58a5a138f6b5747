//! Our C++ as Rust sees it, and calls of llama.cpp that may throw.
//!
//! A C++ exception that reaches Rust ends the process. What throws is called through
//! `patches/jola-calls.h`, which makes a message of it, and of the message an error is made here.

use std::ffi::CStr;

use crate::Error;

pub(crate) mod ffi {
    //! Bindings of `patches/jola-hook.h` and `patches/jola-calls.h`, made by build.rs.
    #![allow(missing_docs, non_camel_case_types, clippy::all)]
    #![allow(clippy::undocumented_unsafe_blocks, dead_code)]
    include!(concat!(env!("OUT_DIR"), "/hook_bindings.rs"));
}

/// The result of a function of `jola-calls.h`, which `call` is to give the place for it; `name`
/// is that of the function of llama.cpp behind it. `initial` is what stands there before.
///
/// # Errors
/// [`Error::Exception`], with what the exception says.
pub(crate) fn guarded<T>(
    name: &'static str,
    initial: T,
    call: impl FnOnce(&mut T) -> i32,
) -> Result<T, Error> {
    let mut result = initial;
    match call(&mut result) {
        0 => Ok(result),
        _ => Err(Error::Exception {
            name,
            message: last_message(),
        }),
    }
}

/// What the last exception of this thread said.
pub(crate) fn last_message() -> String {
    // SAFETY: never null, valid until the thread's next call of our C++.
    let text = unsafe { CStr::from_ptr(ffi::jola_last_error()) };
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    #[test]
    fn an_exception_of_llama_cpp_is_an_error() {
        let model = Model::load_vocab(testkit::base_model()).unwrap();
        let text = |token| {
            guarded("llama_vocab_get_text", std::ptr::null(), |text| {
                // SAFETY: the vocabulary is alive. It looks ids up with `std::vector::at`.
                unsafe { ffi::jola_token_text(model.vocab(), token, text) }
            })
        };
        assert!(!text(0).unwrap().is_null());
        for token in [-1, model.n_vocab() as i32, i32::MAX, i32::MIN] {
            let error = text(token).unwrap_err();
            assert!(
                matches!(&error, Error::Exception { message, .. } if message.contains("range_check")),
                "{error}"
            );
        }
        // Nothing is left behind: the next call is as good as the first.
        assert!(!text(1).unwrap().is_null());
    }
}
