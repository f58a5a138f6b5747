//! The one door through which everything leaves that this project writes: edits, models,
//! logits, reports, pictures, checkpoints.
//!
//! An [`Output`] is made before the work, from its path and all files that the work reads. What
//! would fail after hours fails then, and no input can be its own output. Whoever reads a file
//! while it is replaced sees the old one or the new one.

mod error;
mod inputs;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

pub use error::{OutputError, OutputErrorKind};

/// Bytes gathered before the system is asked to write.
const BUFFER_LEN: usize = 1 << 20;
/// Links that are followed one after the other, as Linux does.
const MAX_LINKS: usize = 40;
/// How the names of temporary files begin and end.
const TEMPORARY: [&str; 2] = [".jola-", ".tmp"];
/// For messages.
const WRITE: &str = "write it";

/// Whether a file name is that of a temporary file, which a process that was killed left.
pub fn is_temporary(name: &str) -> bool {
    let [start, end] = TEMPORARY;
    name.starts_with(start) && name.ends_with(end)
}

/// Where a result goes, once there is one.
#[derive(Debug, Clone)]
pub struct Output {
    /// As the user named it.
    path: PathBuf,
    target: Target,
}

#[derive(Debug, Clone)]
enum Target {
    /// A file that is created or replaced: where links lead.
    File(PathBuf),
    /// A device, a pipe or an open file of this process, which is written to as it is.
    Through,
}

impl Output {
    /// Finds out whether `path` can be written by a command that reads `inputs`. Nothing is
    /// created. Of an input that is a folder, every file in it counts; of one file of a split
    /// model, all.
    ///
    /// # Errors
    /// Any [`OutputErrorKind`], with the path.
    pub fn new<P: AsRef<Path>>(
        path: impl Into<PathBuf>,
        inputs: &[P],
    ) -> Result<Self, OutputError> {
        let path = path.into();
        let target = refuse_input(&path, inputs)
            .and_then(|()| find_target(&path))
            .map_err(|kind| OutputError::new(&path, kind))?;
        Ok(Self { path, target })
    }

    /// [`Output::new`] for a command that reads no file, or whose inputs were looked at before.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub fn without_inputs(path: impl Into<PathBuf>) -> Result<Self, OutputError> {
        Self::new(path, &[] as &[&Path])
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder for temporary files of the work: the one that the result will lie in, which
    /// has the room for it.
    pub fn scratch_folder(&self) -> PathBuf {
        match &self.target {
            Target::File(path) => folder_of(path).to_path_buf(),
            Target::Through => std::env::temp_dir(),
        }
    }

    /// Begins to write, into a temporary file.
    ///
    /// # Errors
    /// [`OutputErrorKind::Io`].
    pub fn begin(&self) -> Result<OutputFile<'_>, OutputError> {
        let [prefix, suffix] = TEMPORARY;
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix).suffix(suffix);
        // The default suits secrets: readable by the owner only.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder
            .tempfile_in(self.scratch_folder())
            .map_err(|error| self.error(error))?;
        let (file, temporary) = temporary.into_parts();
        Ok(OutputFile {
            output: self,
            file: BufWriter::with_capacity(BUFFER_LEN, file),
            temporary,
        })
    }

    /// Creates or replaces the file with what `write` writes. When anything fails, it is as it
    /// was.
    ///
    /// # Errors
    /// [`OutputErrorKind::Io`], with what the system or `write` said.
    pub fn write(
        &self,
        write: impl FnOnce(&mut OutputFile<'_>) -> io::Result<()>,
    ) -> Result<(), OutputError> {
        let mut file = self.begin()?;
        write(&mut file).map_err(|error| self.error(error))?;
        file.commit()
    }

    fn error(&self, error: io::Error) -> OutputError {
        OutputError::new(&self.path, OutputErrorKind::io(WRITE)(error))
    }
}

/// An output that is being written: dropped before it is [committed](Self::commit), it leaves
/// nothing behind.
#[derive(Debug)]
pub struct OutputFile<'a> {
    output: &'a Output,
    file: BufWriter<File>,
    temporary: TempPath,
}

impl OutputFile<'_> {
    /// The file as written so far, under the name it has until it is committed: for a look at
    /// the result before it becomes one.
    ///
    /// # Errors
    /// [`OutputErrorKind::Io`].
    pub fn preview(&mut self) -> Result<&Path, OutputError> {
        self.file
            .flush()
            .map_err(|error| self.output.error(error))?;
        Ok(&self.temporary)
    }

    /// Creates or replaces the file at the path, once all bytes are on disk; a file that is
    /// replaced passes its permissions on. What is no regular file is given the bytes.
    ///
    /// # Errors
    /// [`OutputErrorKind::Io`]; a regular file is then as it was.
    pub fn commit(self) -> Result<(), OutputError> {
        let output = self.output;
        let commit = || {
            let file = self.file.into_inner().map_err(|e| e.into_error())?;
            match &output.target {
                Target::File(target) => replace(&file, self.temporary, target),
                Target::Through => copy(&self.temporary, &output.path),
            }
        };
        commit().map_err(|error| output.error(error))
    }
}

impl Write for OutputFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn replace(file: &File, temporary: TempPath, target: &Path) -> io::Result<()> {
    if let Ok(replaced) = fs::metadata(target) {
        inherit(file, &replaced)?;
    }
    file.sync_all()?;
    temporary.persist(target).map_err(|e| e.error)?;
    // Makes the rename itself durable. Not every file system can sync folders, and the
    // file is complete either way, so a failure here is none of the write.
    if let Ok(folder) = File::open(folder_of(target)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Gives a new file the permissions, and where that is allowed the owner, of the one that it
/// replaces.
fn inherit(file: &File, replaced: &Metadata) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{fchown, MetadataExt as _};
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
            // Only root may, and a file of the user who writes is right as well.
            let _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
        }
    }
    file.set_permissions(replaced.permissions())
}

fn copy(from: &Path, through: &Path) -> io::Result<()> {
    let mut through = open_through(through)?;
    io::copy(&mut File::open(from)?, &mut through)?;
    through.flush()
}

/// Opens what is no regular file. Appending matters where standard output, named by its path,
/// leads to a regular file: what stands there already must stay.
fn open_through(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn refuse_input<P: AsRef<Path>>(path: &Path, inputs: &[P]) -> Result<(), OutputErrorKind> {
    match inputs::input_at(path, inputs) {
        Some(input) => Err(OutputErrorKind::Input {
            input: (input != path).then_some(input),
        }),
        None => Ok(()),
    }
}

/// Follows links to what will be written.
fn find_target(path: &Path) -> Result<Target, OutputErrorKind> {
    if path.file_name().is_none() && !path.is_dir() {
        return Err(OutputErrorKind::NoName);
    }
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let found = match fs::symlink_metadata(&target) {
            Ok(found) => found,
            Err(_) => return new_file(target),
        };
        if is_descriptor(&target) {
            return probe_through(&target);
        }
        if found.is_symlink() {
            let to = fs::read_link(&target).map_err(OutputErrorKind::io(WRITE))?;
            // An absolute path replaces the folder.
            target = folder_of(&target).join(to);
        } else if found.is_dir() {
            return Err(OutputErrorKind::Folder);
        } else if found.is_file() {
            return old_file(target, &found);
        } else {
            return special_file(&target, &found);
        }
    }
    Err(OutputErrorKind::Circle)
}

/// Whether the path stands for a file that this process has open, such as `/dev/stdout`.
fn is_descriptor(path: &Path) -> bool {
    let Ok(folder) = folder_of(path).canonicalize() else {
        return false;
    };
    folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && folder.ends_with("fd"))
}

fn new_file(target: PathBuf) -> Result<Target, OutputErrorKind> {
    if target.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(OutputErrorKind::NoName);
    }
    probe_folder(folder_of(&target))?;
    Ok(Target::File(target))
}

fn old_file(target: PathBuf, found: &Metadata) -> Result<Target, OutputErrorKind> {
    // Replacing a file takes no permission to write to it, but the wish not to have it
    // changed is plain.
    if found.permissions().readonly() {
        return Err(OutputErrorKind::Protected);
    }
    OpenOptions::new()
        .write(true)
        .open(&target)
        .map_err(OutputErrorKind::io(WRITE))?;
    probe_folder(folder_of(&target))?;
    Ok(Target::File(target))
}

#[cfg(unix)]
fn special_file(path: &Path, found: &Metadata) -> Result<Target, OutputErrorKind> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = found.file_type();
    if kind.is_socket() {
        Err(OutputErrorKind::Socket)
    } else if kind.is_fifo() {
        // To open it would wait for its reader, and end what the reader gets.
        Ok(Target::Through)
    } else {
        probe_through(path)
    }
}

#[cfg(not(unix))]
fn special_file(path: &Path, _: &Metadata) -> Result<Target, OutputErrorKind> {
    probe_through(path)
}

fn probe_through(path: &Path) -> Result<Target, OutputErrorKind> {
    open_through(path).map_err(OutputErrorKind::io(WRITE))?;
    Ok(Target::Through)
}

/// Whether a file can be created in the folder.
fn probe_folder(folder: &Path) -> Result<(), OutputErrorKind> {
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            let folder = folder.to_path_buf();
            return Err(OutputErrorKind::NotAFolder { folder });
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let file = folder.ancestors().find(|above| above.is_file());
            let folder = file.unwrap_or(folder).to_path_buf();
            return Err(OutputErrorKind::NotAFolder { folder });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = folder.to_path_buf();
            return Err(OutputErrorKind::NoFolder { folder });
        }
        Err(error) => return Err(OutputErrorKind::io(WRITE)(error)),
    }
    tempfile::tempfile_in(folder)
        .map(drop)
        .map_err(OutputErrorKind::io(WRITE))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
