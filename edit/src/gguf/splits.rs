//! A model in one GGUF file, or split over several as `llama-gguf-split` does it.

use std::io;
use std::path::Path;

use super::{Gguf, GgufError, GgufErrorKind, Metadata, Role, Tensor, Value};
use crate::digest;
use crate::shard_name::ShardName;

/// Number of this file among its siblings, from 0.
const SPLIT_NO: &str = "split.no";
/// How many files the model is split over.
const SPLIT_COUNT: &str = "split.count";
/// Tensors in all files together.
const SPLIT_TENSORS: &str = "split.tensors.count";

/// The keys that only make sense in one of several files.
pub const SPLIT_KEYS: [&str; 3] = [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS];

/// All files of a model, open.
#[derive(Debug)]
pub struct Splits {
    /// At least one; the first holds the model's metadata.
    files: Vec<Gguf>,
}

impl Splits {
    /// Opens a model by its only file, or by the first of `NAME-00001-of-0000N.gguf`.
    ///
    /// # Errors
    /// As [`Gguf::open`] for every file, [`Role`](GgufErrorKind::Role) for what is no model,
    /// [`LaterPart`](GgufErrorKind::LaterPart), [`MissingPart`](GgufErrorKind::MissingPart), and
    /// [`KeyValue`](GgufErrorKind::KeyValue) for a file that is not the one its name says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let first = Gguf::open(path)?;
        first.expect(Role::Model)?;
        let count = split_number(&first, SPLIT_COUNT)?.unwrap_or(1);
        refuse_later(&first, count)?;
        let mut files = vec![first];
        if count > 1 {
            open_rest(&mut files, count)?;
        }
        Ok(Self { files })
    }

    /// The file with the model's metadata.
    pub fn first(&self) -> &Gguf {
        &self.files[0]
    }

    /// All files, in order.
    pub fn files(&self) -> &[Gguf] {
        &self.files
    }

    /// The model's metadata, which the first file holds.
    pub fn metadata(&self) -> &Metadata {
        self.first().metadata()
    }

    /// A tensor by name, and the file that holds it.
    pub fn tensor(&self, name: &str) -> Option<(&Gguf, Tensor<'_>)> {
        let mut found = self.files.iter().filter_map(|f| Some((f, f.tensor(name)?)));
        found.next()
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(Gguf::file_len).sum()
    }

    /// SHA-256 of the files' bytes one after the other, as 64 lowercase hexadecimal digits; of
    /// a model in one file, that file's.
    ///
    /// # Errors
    /// Those of reading the files.
    pub fn sha256(&self) -> io::Result<String> {
        digest::sha256(self.files.iter().map(Gguf::path))
    }

    /// All tensors with their data, file by file.
    pub fn iter(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.files.iter().flat_map(Gguf::iter)
    }
}

/// Opens files 1 to `count - 1` behind the first and checks that all belong together.
fn open_rest(files: &mut Vec<Gguf>, count: u64) -> Result<(), GgufError> {
    let path = files[0].path().to_path_buf();
    expect_number(&files[0], SPLIT_NO, 0)?;
    let name = ShardName::parse(&path).filter(|name| (name.number, name.count) == (1, count));
    for index in 1..count {
        let Some(name) = &name else {
            return Err(files[0].error(GgufErrorKind::KeyValue {
                key: SPLIT_COUNT.to_owned(),
                expected: format!("a file name that ends in -00001-of-{count:05}.gguf"),
                found: format!("{count} in a file of another name"),
            }));
        };
        let file = Gguf::open(name.path(index + 1)).map_err(|error| missing_part(error, count))?;
        expect_number(&file, SPLIT_NO, index)?;
        expect_number(&file, SPLIT_COUNT, count)?;
        files.push(file);
    }
    let tensors = files.iter().map(|file| file.tensors().len() as u64).sum();
    expect_number(&files[0], SPLIT_TENSORS, tensors)
}

/// Refuses a file that is not the first of its model.
fn refuse_later(file: &Gguf, count: u64) -> Result<(), GgufError> {
    let Some(index) = split_number(file, SPLIT_NO)?.filter(|index| *index > 0) else {
        return Ok(());
    };
    let name = ShardName::parse(file.path());
    // One whose name says something else was renamed: that is for the check of all files.
    if name.as_ref().is_some_and(|name| name.number != index + 1) {
        return Ok(());
    }
    Err(file.error(GgufErrorKind::LaterPart {
        number: index + 1,
        count,
        first: name.map(|name| name.path(1)),
    }))
}

/// Says of a file that is not there that a model needs it.
fn missing_part(error: GgufError, count: u64) -> GgufError {
    match *error.kind {
        GgufErrorKind::Io { error: reason, .. } => GgufError::new(
            &error.file,
            GgufErrorKind::MissingPart {
                count,
                error: reason,
            },
        ),
        _ => error,
    }
}

fn split_number(file: &Gguf, key: &str) -> Result<Option<u64>, GgufError> {
    let metadata = file.metadata();
    let found = metadata.optional(key, "a whole number", Value::as_u64);
    found.map_err(|kind| file.error(kind))
}

fn expect_number(file: &Gguf, key: &str, expected: u64) -> Result<(), GgufError> {
    match split_number(file, key)? {
        Some(found) if found == expected => Ok(()),
        found => Err(file.error(GgufErrorKind::KeyValue {
            key: key.to_owned(),
            expected: expected.to_string(),
            found: found.map_or("missing".to_owned(), |found| found.to_string()),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufWriter;

    /// Writes file `index` of `count` with one tensor, saying that it is number `no`.
    fn write(path: &Path, no: u16, count: u16, tensors: i32) {
        let mut metadata = Metadata::new();
        metadata.insert(SPLIT_NO, no).unwrap();
        metadata.insert(SPLIT_COUNT, count).unwrap();
        metadata.insert(SPLIT_TENSORS, tensors).unwrap();
        let mut writer = GgufWriter::new(metadata).unwrap();
        let name = format!("tensor{no}");
        writer
            .add_tensor(name, crate::gguf::F32, &[1], vec![0; 4])
            .unwrap();
        writer.write(path).unwrap();
    }

    #[test]
    fn files_are_found_by_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = |index| folder.path().join(format!("m-0000{index}-of-00002.gguf"));
        write(&path(1), 0, 2, 2);
        write(&path(2), 1, 2, 2);
        let splits = Splits::open(path(1)).unwrap();
        assert_eq!(splits.files().len(), 2);
        let (file, tensor) = splits.tensor("tensor1").unwrap();
        assert_eq!((file.path(), tensor.bytes.len()), (path(2).as_path(), 4));
        assert_eq!(splits.iter().count(), 2);
        let bytes = [1, 2].map(|index| std::fs::read(path(index)).unwrap());
        assert_eq!(splits.bytes(), (bytes[0].len() + bytes[1].len()) as u64);
        let both = folder.path().join("both");
        std::fs::write(&both, bytes.concat()).unwrap();
        let expected = digest::sha256([both]).unwrap();
        assert_eq!(splits.sha256().unwrap(), expected);
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |index| folder.path().join(format!("m-0000{index}-of-00002.gguf"));
        let refused = |expected: &str| {
            let error = Splits::open(path(1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        write(&path(1), 0, 2, 2);
        refused("m-00002-of-00002.gguf: cannot open it, one of the 2 files of a split model");
        write(&path(2), 1, 2, 2);
        let later = Splits::open(path(2)).unwrap_err().to_string();
        assert!(later.contains("it is file 2 of 2"), "{later}");
        assert!(later.ends_with(path(1).to_str().unwrap()), "{later}");
        write(&path(2), 0, 2, 2);
        refused("`split.no` is 0, expected 1");
        write(&path(2), 1, 2, 2);
        write(&path(1), 0, 2, 7);
        refused("`split.tensors.count` is 7, expected 2");
        let other = folder.path().join("renamed.gguf");
        write(&other, 0, 2, 2);
        let error = Splits::open(&other).unwrap_err().to_string();
        assert!(error.contains("-00001-of-00002.gguf"), "{error}");
    }
}
