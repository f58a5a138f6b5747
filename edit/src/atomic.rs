/*!
Files that are either complete or not there.
*/

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Creates or replaces the file at `path`: writes a temporary file beside it, syncs it and
/// renames it. When anything fails, `path` is as it was.
///
/// # Errors
/// Those of the file system and of `write`.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    let mut buffered = BufWriter::new(temporary.as_file_mut());
    write(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|failed| failed.error)?;
    Ok(())
}
