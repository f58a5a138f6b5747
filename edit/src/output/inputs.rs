//! Which files a command reads, told apart by what they are and not by how they are spelt.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::shard_name::ShardName;

/// What tells one file of the system from another: links to a file, hard or not, are the same.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(unix)]
fn identity(_: &Path, metadata: &Metadata) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path, _: &Metadata) -> io::Result<Identity> {
    path.canonicalize()
}

/// The regular file that a path leads to, if there is one.
fn file_at(path: &Path) -> Option<Identity> {
    // Devices and pipes are no copies of anything: they are read and written at once.
    let metadata = fs::metadata(path).ok().filter(Metadata::is_file)?;
    identity(path, &metadata).ok()
}

/// The input that is the same file as `output`: one of `inputs`, a file in one that is a
/// folder, or another file of a split model.
pub(super) fn input_at<P: AsRef<Path>>(output: &Path, inputs: &[P]) -> Option<PathBuf> {
    let target = file_at(output)?;
    let inputs = inputs.iter().flat_map(|input| files_of(input.as_ref()));
    inputs
        .into_iter()
        .find(|input| file_at(input).as_ref() == Some(&target))
}

/// All files that are read where `input` is named.
fn files_of(input: &Path) -> Vec<PathBuf> {
    if let Ok(entries) = fs::read_dir(input) {
        return entries.flatten().map(|entry| entry.path()).collect();
    }
    match ShardName::parse(input) {
        Some(shard) => shard.all().collect(),
        None => vec![input.to_path_buf()],
    }
}
