//! Files that are either complete or not there: whoever reads an edit, a model or a report
//! while it is being replaced sees the old one or the new one.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Bytes gathered before the system is asked to write.
const BUFFER_LEN: usize = 1 << 20;

/// A file that appears under its name when it is [committed](Self::commit); dropped before
/// that, it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    temporary: BufWriter<NamedTempFile>,
}

impl AtomicFile {
    /// Begins a temporary file beside `path`, with the permissions of any new file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".jola-").suffix(".tmp");
        // The default suits secrets: readable by the owner only.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder.tempfile_in(folder_of(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            temporary: BufWriter::with_capacity(BUFFER_LEN, temporary),
        })
    }

    /// The file as written so far, under the name it has until it is committed: for a look at
    /// the result before it becomes one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn preview(&mut self) -> io::Result<&Path> {
        self.temporary.flush()?;
        Ok(self.temporary.get_ref().path())
    }

    /// Creates or replaces the file at the path, once all bytes are on disk.
    ///
    /// # Errors
    /// Those of the file system; the path is then as it was.
    pub fn commit(self) -> io::Result<()> {
        let temporary = self.temporary.into_inner().map_err(|e| e.into_error())?;
        temporary.as_file().sync_all()?;
        temporary.persist(&self.path).map_err(|e| e.error)?;
        // Makes the rename itself durable. Not every file system can sync folders, and the
        // file is complete either way, so a failure here is none of the write.
        if let Ok(folder) = File::open(folder_of(&self.path)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

/// Creates or replaces the file at `path` with what `write` writes. When anything fails,
/// `path` is as it was.
///
/// # Errors
/// Those of the file system and of `write`.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut AtomicFile) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    write(&mut file)?;
    file.commit()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_complete_file_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        fs::write(&path, "old").unwrap();
        write_atomically(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        fs::write(&path, "old").unwrap();
        let failing = write_atomically(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failing.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_new_files() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            let metadata = fs::metadata(folder.path().join(name)).unwrap();
            metadata.permissions().mode()
        };
        fs::write(folder.path().join("usual"), "").unwrap();
        write_atomically(&folder.path().join("ours"), |_| Ok(())).unwrap();
        assert_eq!(mode("ours"), mode("usual"));
    }
}
