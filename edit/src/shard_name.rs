//! The names that `llama-gguf-split` gives the files of one model:
//! `NAME-00002-of-00003.gguf`.

use std::path::{Path, PathBuf};

/// What follows the number of files.
const END: &str = ".gguf";
/// What stands between the two numbers.
const OF: &str = "-of-";
/// Digits of each number.
const DIGITS: usize = 5;

/// The path of one of several files that are one model together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardName {
    /// The path up to the first number, and the dash before it.
    prefix: PathBuf,
    /// Which of the files it is, from 1.
    pub number: u64,
    /// How many there are.
    pub count: u64,
}

impl ShardName {
    /// Reads a path; nothing for a file with another kind of name.
    pub fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(END)?;
        let (name, count) = split_number(name)?;
        let (name, number) = split_number(name.strip_suffix(OF)?)?;
        let known = (1..=count).contains(&number);
        let prefix = path.with_file_name(name.strip_suffix('-')?);
        known.then_some(Self {
            prefix,
            number,
            count,
        })
    }

    /// The path of file `number`, from 1.
    pub fn path(&self, number: u64) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("-{number:05}{OF}{:05}{END}", self.count));
        path.into()
    }

    /// The paths of all files.
    pub fn all(&self) -> impl Iterator<Item = PathBuf> + '_ {
        (1..=self.count).map(|number| self.path(number))
    }
}

/// A text without the number at its end, and the number.
fn split_number(text: &str) -> Option<(&str, u64)> {
    let (before, digits) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
    let numeric = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((before, digits.parse().ok().filter(|_| numeric)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_made() {
        let name = ShardName::parse(Path::new("a/m-x-00002-of-00003.gguf")).unwrap();
        assert_eq!((name.number, name.count), (2, 3));
        let all: Vec<PathBuf> = name.all().collect();
        let expected = [1, 2, 3].map(|i| PathBuf::from(format!("a/m-x-0000{i}-of-00003.gguf")));
        assert_eq!(all, expected);
        for other in [
            "m.gguf",
            "m-00004-of-00003.gguf",
            "m-00000-of-00003.gguf",
            "m-0001-of-00003.gguf",
            "m-+0001-of-00003.gguf",
            "m-00001-of-00003.bin",
            "é-of-00003.gguf",
            "",
        ] {
            assert_eq!(ShardName::parse(Path::new(other)), None, "{other}");
        }
    }
}
