//! Finding the host's functions.
//!
//! A preloaded library comes first in the process's global scope, so calls reach it whichever
//! way llama.cpp was loaded. The function that it stands in for is found as the dynamic linker
//! would have found it for the caller: further on in the global scope, else among the libraries
//! that the caller's object itself brought along (Python and Node load llama.cpp privately,
//! perhaps several copies of it).

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Why a function of the host could not be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No loaded library has it.
    #[error("this llama.cpp has no function {name}: too old, too new, or not a shared build")]
    Missing {
        /// Name of the function.
        name: String,
    },
    /// Several do, and the caller does not tell which one is meant.
    #[error("{copies} copies of {name} are loaded in this process, and its caller does not tell which is meant")]
    Ambiguous {
        /// Name of the function.
        name: String,
        /// How many loaded objects have one.
        copies: usize,
    },
}

type DlSym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// Address of the C library's own `dlsym`, 0 before [`real_dlsym`]. `dlsym` itself is one of
/// the functions that this library stands in for.
pub(crate) static REAL_DLSYM: AtomicUsize = AtomicUsize::new(0);

/// The C library's own `dlsym`.
pub(crate) fn real_dlsym() -> DlSym {
    let mut address = REAL_DLSYM.load(Ordering::Relaxed);
    if address == 0 {
        address = find_dlsym() as usize;
        REAL_DLSYM.store(address, Ordering::Relaxed);
    }
    // SAFETY: the address is that of a function of this type.
    unsafe { std::mem::transmute::<usize, DlSym>(address) }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn find_dlsym() -> *mut c_void {
    // The versions under which glibc has carried it, by architecture and age.
    for version in [c"GLIBC_2.34", c"GLIBC_2.2.5", c"GLIBC_2.17"] {
        // SAFETY: both are NUL-terminated.
        let found = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) };
        if !found.is_null() {
            return found;
        }
    }
    crate::log::error("the C library has no dlsym that this library knows");
    std::process::abort()
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn find_dlsym() -> *mut c_void {
    libc::dlsym as *mut c_void
}

/// The start of the object that contains `address`, and its file.
pub(crate) fn object_of(address: usize) -> Option<(usize, CString)> {
    // SAFETY: plain output fields; dladdr fills them when it returns non-zero.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address as *const c_void, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        let file = CStr::from_ptr(info.dli_fname).to_owned();
        Some((info.dli_fbase as usize, file))
    }
}

/// Whether `address` lies in this library.
pub(crate) fn is_ours(address: usize) -> bool {
    let base = |address| object_of(address).map(|(base, _)| base);
    base(address) == base(is_ours as *const () as usize)
}

/// The function `name` as `handle` sees it, unless it is ours.
fn symbol(handle: *mut c_void, name: &CStr) -> Option<usize> {
    // SAFETY: `handle` is one of dlopen's or RTLD_NEXT, `name` is NUL-terminated.
    let found = unsafe { real_dlsym()(handle, name.as_ptr()) } as usize;
    (found != 0 && !is_ours(found)).then_some(found)
}

/// The function `name` behind ours in the global scope.
pub(crate) fn next(name: &CStr) -> Option<usize> {
    symbol(libc::RTLD_NEXT, name)
}

/// A handle of a loaded object's file. It is never closed: addresses found through it stay
/// valid.
fn handle(file: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: NUL-terminated; RTLD_NOLOAD loads nothing.
    NonNull::new(unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) })
}

/// The function `name` as the object that contains `address` sees it: its own, or that of
/// the libraries that it was linked with.
pub(crate) fn beside(address: usize, name: &CStr) -> Option<usize> {
    let (_, file) = object_of(address)?;
    symbol(handle(&file)?.as_ptr(), name)
}

/// The function `name` for a call that came from `caller` (an address in the calling code,
/// or 0).
///
/// # Errors
/// Any [`ResolveError`].
pub fn lookup(name: &CStr, caller: usize) -> Result<usize, ResolveError> {
    if let Some(found) = next(name) {
        return Ok(found);
    }
    if caller != 0 && !is_ours(caller) {
        if let Some(found) = beside(caller, name) {
            return Ok(found);
        }
    }
    let mut copies: Vec<usize> = loaded_files()
        .iter()
        .filter_map(|file| symbol(handle(file)?.as_ptr(), name))
        .collect();
    copies.sort_unstable();
    copies.dedup();
    let name = || name.to_string_lossy().into_owned();
    match copies[..] {
        [] => Err(ResolveError::Missing { name: name() }),
        [found] => Ok(found),
        _ => Err(ResolveError::Ambiguous {
            name: name(),
            copies: copies.len(),
        }),
    }
}

/// The files of all loaded libraries.
fn loaded_files() -> Vec<CString> {
    unsafe extern "C" fn collect(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        files: *mut c_void,
    ) -> c_int {
        // SAFETY: dl_iterate_phdr passes a valid entry and the pointer given to it.
        unsafe {
            let name = (*info).dlpi_name;
            if !name.is_null() && *name != 0 {
                (*files.cast::<Vec<CString>>()).push(CStr::from_ptr(name).to_owned());
            }
        }
        0
    }
    let mut files: Vec<CString> = Vec::new();
    // SAFETY: `collect` only uses the vector during the call.
    unsafe { libc::dl_iterate_phdr(Some(collect), std::ptr::from_mut(&mut files).cast()) };
    files
}
