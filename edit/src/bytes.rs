//! The bytes of a file that is read: mapped, or already in memory. One type for all readers of
//! this project.

use std::ops::Deref;

use memmap2::Mmap;

/// Bytes of a file.
#[derive(Debug)]
pub enum Bytes {
    /// Mapped: read where they are touched.
    Mapped(Mmap),
    /// In memory.
    Owned(Vec<u8>),
}

impl Bytes {
    /// Lets the pages of a mapped file go: what is read again is read from the file. For
    /// programs that read a large file once and work on with what they made of it.
    pub fn forget(&self) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: the mapping is of a file and nothing writes to it: dropped pages come
            // back with the file's content.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            // It is advice: where it is not taken, the pages stay.
            drop(advised);
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
