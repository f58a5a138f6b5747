//! What tells the contents of files apart.

use std::fs::File;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// SHA-256 of the bytes of files one after the other, as 64 lowercase hexadecimal digits.
pub(crate) fn sha256<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> io::Result<String> {
    let mut hasher = Sha256::new();
    for path in paths {
        io::copy(&mut File::open(path)?, &mut hasher)?;
    }
    Ok(format!("{:x}", hasher.finalize()))
}
