//! Files of saved cells, as llama.cpp writes them, with a trailer behind its data.

use std::ffi::{c_char, CStr, OsStr};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::memory_file::memory_file;
use crate::log;
use crate::sequences::{len_of, split, Cells, FOOTER};

/// The path that a C string names.
///
/// # Safety
/// `path` must be NUL-terminated and outlive the result.
unsafe fn path_from<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: the caller vouches for `path`.
    Path::new(OsStr::from_bytes(
        unsafe { CStr::from_ptr(path) }.to_bytes(),
    ))
}

/// Puts a trailer behind what a file holds; says why not, if it cannot be.
///
/// # Safety
/// `path` must be NUL-terminated.
pub unsafe fn append(path: *const c_char, trailer: &[u8]) -> bool {
    // SAFETY: the caller vouches for `path`.
    let path = unsafe { path_from(path) };
    let file = OpenOptions::new().append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(trailer));
    if let Err(error) = &written {
        log::error(format_args!("{}: {error}", path.display()));
    }
    written.is_ok()
}

/// A file with a trailer.
pub struct Kept {
    file: File,
    /// Length of llama.cpp's own data.
    own: u64,
    /// The sequences of the trailer.
    pub sequences: Vec<(i32, Cells)>,
}

impl Kept {
    /// The trailer of a file, if it has one.
    ///
    /// # Safety
    /// `path` must be null or NUL-terminated.
    pub unsafe fn read(path: *const c_char) -> Option<Self> {
        if path.is_null() {
            return None;
        }
        // SAFETY: the caller vouches for `path`.
        Self::open(unsafe { path_from(path) })
    }

    fn open(path: &Path) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let len = file.metadata().ok()?.len();
        let mut footer = [0; FOOTER];
        file.seek(SeekFrom::End(-i64::try_from(FOOTER).ok()?))
            .ok()?;
        file.read_exact(&mut footer).ok()?;
        let own = len.checked_sub(len_of(&footer)?)?;
        file.seek(SeekFrom::Start(own)).ok()?;
        let mut trailer = Vec::new();
        file.read_to_end(&mut trailer).ok()?;
        let (before, sequences) = split(&trailer)?;
        (before == 0).then_some(Self {
            file,
            own,
            sequences,
        })
    }

    /// A file in memory of llama.cpp's own data.
    ///
    /// # Errors
    /// What the system refused.
    pub fn without_trailer(&self) -> io::Result<File> {
        let mut from = &self.file;
        from.seek(SeekFrom::Start(0))?;
        let mut to = memory_file()?;
        io::copy(&mut from.take(self.own), &mut to)?;
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequences::trailer;

    #[test]
    fn a_trailer_is_put_behind_data_and_taken_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot.bin");
        std::fs::write(&path, b"own data").unwrap();
        assert!(Kept::open(&path).is_none());
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let cells = [(2, Cells::FOREIGN)];
        let bytes = trailer(cells.iter().map(|(of, cells)| (*of, cells)));
        // SAFETY: NUL-terminated.
        assert!(unsafe { append(name.as_ptr(), &bytes) });
        let kept = Kept::open(&path).unwrap();
        assert_eq!(kept.sequences, cells);
        let mut own = String::new();
        let mut file = kept.without_trailer().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut own).unwrap();
        assert_eq!(own, "own data");
    }
}
