//! Passing a call on to the host.

use std::ffi::CStr;

use crate::log;
use crate::resolve::{lookup, ResolveError};

/// Ends the process: for calls that can neither be passed on nor be refused.
pub(super) fn die(text: impl std::fmt::Display) -> ! {
    log::error(text);
    // SAFETY: ends the process at once, without destructors that might wait for others.
    unsafe { libc::_exit(1) }
}

/// The host's function `name` for a call from `caller`: `known` where the host is, else looked
/// up. Ends the process if there is none.
pub(super) fn function<F: Copy>(known: Option<F>, name: &CStr, caller: usize) -> F {
    let found = known.map_or_else(|| real(name, caller), Ok);
    found.unwrap_or_else(|error| die(error))
}

/// The host's function `name` for a call from `caller`.
fn real<F: Copy>(name: &CStr, caller: usize) -> Result<F, ResolveError> {
    let address = lookup(name, caller)?;
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    // SAFETY: F is a function pointer type; the callers name the function of that type.
    Ok(unsafe { std::mem::transmute_copy::<usize, F>(&address) })
}
