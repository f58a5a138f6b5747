//! The entries of a zip archive, each unpacked on its own and within a bound: what an entry
//! says about its size is not believed.

use std::cell::RefCell;
use std::io::{Cursor, Read};

use zip::read::ZipFile;
use zip::result::ZipError;
use zip::ZipArchive;

use super::bytes::Bytes;
use super::error::ImportErrorKind;

/// An open archive.
#[derive(Debug)]
pub(super) struct Archive {
    /// Unpacking moves the archive's position.
    zip: RefCell<ZipArchive<Cursor<Bytes>>>,
}

impl Archive {
    /// Opens an archive.
    pub(super) fn new(bytes: Bytes) -> Result<Self, ImportErrorKind> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(ImportErrorKind::Zip)?;
        Ok(Self {
            zip: RefCell::new(zip),
        })
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> Vec<String> {
        self.zip.borrow().file_names().map(str::to_owned).collect()
    }

    /// A whole entry of at most `limit` bytes.
    pub(super) fn whole(&self, entry: &str, limit: u64) -> Result<Vec<u8>, ImportErrorKind> {
        self.with_file(entry, |file| {
            let declared = file.size();
            if declared > limit {
                return Err(ImportErrorKind::EntryTooLarge {
                    entry: entry.to_owned(),
                    found: declared,
                    limit,
                });
            }
            let bytes = unpack(file, declared + 1)?;
            if bytes.len() as u64 == declared {
                return Ok(bytes);
            }
            Err(ImportErrorKind::EntrySize {
                entry: entry.to_owned(),
                declared,
            })
        })
    }

    /// The first `len` bytes of an entry, or all if it has fewer.
    pub(super) fn start(&self, entry: &str, len: u64) -> Result<Vec<u8>, ImportErrorKind> {
        self.with_file(entry, |file| unpack(file, len))
    }

    fn with_file<T>(
        &self,
        entry: &str,
        read: impl FnOnce(ZipFile<'_, Cursor<Bytes>>) -> Result<T, ImportErrorKind>,
    ) -> Result<T, ImportErrorKind> {
        let mut zip = self.zip.borrow_mut();
        let file = zip.by_name(entry).map_err(|error| match error {
            ZipError::FileNotFound => ImportErrorKind::MissingEntry {
                entry: entry.to_owned(),
            },
            error => ImportErrorKind::Zip(error),
        })?;
        read(file)
    }
}

/// At most `len` bytes; memory grows with what is there.
fn unpack(file: ZipFile<'_, Cursor<Bytes>>, len: u64) -> Result<Vec<u8>, ImportErrorKind> {
    let mut bytes = Vec::new();
    let read = file.take(len).read_to_end(&mut bytes);
    read.map_err(ImportErrorKind::io("unpack it"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    /// An archive with one entry of zeros, `a`, as bytes.
    fn zeros(len: usize) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        writer.start_file("a", options).unwrap();
        writer.write_all(&vec![0; len]).unwrap();
        writer.finish().unwrap().into_inner()
    }

    fn open(bytes: Vec<u8>) -> Archive {
        Archive::new(Bytes::Owned(bytes)).unwrap()
    }

    #[test]
    fn an_entry_is_unpacked_up_to_its_limit() {
        let archive = open(zeros(1000));
        assert_eq!(archive.whole("a", 1000).unwrap(), vec![0; 1000]);
        let error = archive.whole("a", 999).unwrap_err().to_string();
        assert_eq!(error, "`a` unpacks to 1000 bytes, the limit is 999");
        assert_eq!(archive.start("a", 10).unwrap(), vec![0; 10]);
        assert_eq!(archive.start("a", 2000).unwrap().len(), 1000);
        let missing = archive.whole("b", 10).unwrap_err();
        assert!(matches!(missing, ImportErrorKind::MissingEntry { .. }));
    }

    #[test]
    fn an_entry_that_unpacks_to_more_than_it_says_is_refused() {
        // Its size stands in the local header and in the directory.
        let mut bytes = zeros(1 << 20);
        let declared = (1u32 << 20).to_le_bytes();
        let places: Vec<usize> = (0..bytes.len() - 4)
            .filter(|at| bytes[*at..at + 4] == declared)
            .collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at..at + 4].copy_from_slice(&100u32.to_le_bytes());
        }
        let error = open(bytes).whole("a", 100).unwrap_err().to_string();
        assert_eq!(error, "`a` does not unpack to the 100 bytes that it says");
    }
}
