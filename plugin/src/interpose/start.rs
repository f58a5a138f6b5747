//! What happens when the library is loaded: a look at the program it was loaded into.
//!
//! A program with llama.cpp linked in statically never calls the functions that this library
//! stands in for. With edits asked for it must not run as if it had them.

use std::ffi::{c_int, c_void};
use std::panic::catch_unwind;

use jola_edit::SPECS_VARIABLE;

use crate::log;
use crate::request::enabled;

/// A text that only llama.cpp's own code contains.
const STATIC_MARK: &[u8] = b"failed to allocate compute pp buffers";

#[used]
#[link_section = ".init_array"]
static START: extern "C" fn() = start;

extern "C" fn start() {
    // A panic here means that nothing could be found out.
    let is_static = catch_unwind(|| enabled() && program_contains(STATIC_MARK)).unwrap_or(false);
    if is_static {
        log::error(format_args!(
            "this program has llama.cpp linked in statically, so the edits of {SPECS_VARIABLE} cannot \
             be brought into it: use a build with shared libraries"
        ));
        // SAFETY: nothing of the program has run yet.
        unsafe { libc::_exit(1) };
    }
}

/// Whether the program's own file (not its libraries) has `text` among its constants.
fn program_contains(text: &'static [u8]) -> bool {
    struct Search {
        text: &'static [u8],
        found: bool,
    }
    unsafe extern "C" fn search(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: dl_iterate_phdr passes a valid entry with its segments, and our pointer.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        for i in 0..usize::from(info.dlpi_phnum) {
            // SAFETY: as above.
            let segment = unsafe { &*info.dlpi_phdr.add(i) };
            let constant = segment.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R;
            if segment.p_type == libc::PT_LOAD && constant {
                let start = (info.dlpi_addr + segment.p_vaddr) as *const c_void;
                let text = search.text;
                // SAFETY: the segment is mapped and readable, and stays so.
                let found = unsafe {
                    let len = segment.p_filesz as usize;
                    libc::memmem(start, len, text.as_ptr().cast(), text.len())
                };
                search.found |= !found.is_null();
            }
        }
        1 // the program itself comes first; no more
    }
    let mut data = Search { text, found: false };
    // SAFETY: `search` uses the value during the call only.
    unsafe { libc::dl_iterate_phdr(Some(search), std::ptr::from_mut(&mut data).cast()) };
    data.found
}
