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
