//! Files in memory, for functions of the host that take a path.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};

/// An empty file in memory, gone when it is dropped.
///
/// # Errors
/// What the system refused.
pub fn memory_file() -> io::Result<File> {
    // SAFETY: the name is NUL-terminated; the descriptor is new and owned by nobody else.
    unsafe {
        let descriptor = libc::memfd_create(c"jola".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(descriptor))
    }
}

/// The path by which this process opens a file that it holds open.
pub fn path_of(file: &File) -> CString {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    CString::new(path).expect("no NUL in it")
}
