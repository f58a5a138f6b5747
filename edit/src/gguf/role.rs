//! What a file is that was given in the place of another: a user who mixes up two options is
//! told so, instead of the first key that is missing.

use std::fmt;
use std::path::Path;

use super::{Gguf, GgufError, GgufErrorKind, Metadata};

/// What a GGUF file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A base model.
    Model,
    /// An edit as this crate writes it.
    Sidecar,
    /// A LoRA adapter in llama.cpp's format.
    Lora,
}

impl Role {
    /// What the metadata say, if that is one of the three.
    pub fn of(metadata: &Metadata) -> Option<Self> {
        let text = |key: &str| metadata.get(key).and_then(|value| value.as_str());
        match text("adapter.type") {
            Some("jola") => return Some(Self::Sidecar),
            Some("lora") => return Some(Self::Lora),
            Some(_) => return None,
            None => {}
        }
        let block_count = format!("{}.block_count", text("general.architecture")?);
        let model = matches!(text("general.type"), None | Some("model"));
        (model && metadata.get(&block_count).is_some()).then_some(Self::Model)
    }

    /// The option that takes such files.
    fn option(self) -> &'static str {
        match self {
            Self::Model => "-m",
            Self::Sidecar => "--jola",
            Self::Lora => "--lora",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "a base model",
            Self::Sidecar => "a sidecar with an edit",
            Self::Lora => "a LoRA adapter",
        })
    }
}

impl Gguf {
    /// Refuses a file that is plainly for something else. One that says nothing of what it is
    /// passes: those who read it find what they miss.
    ///
    /// # Errors
    /// [`GgufErrorKind::Role`].
    pub fn expect(&self, expected: Role) -> Result<(), GgufError> {
        match Role::of(self.metadata()) {
            Some(found) if found != expected => Err(self.error(GgufErrorKind::Role {
                found,
                expected,
                option: found.option(),
            })),
            _ => Ok(()),
        }
    }
}

/// Refuses a folder, which opens as if it were a file.
pub(super) fn refuse_folder(path: &Path) -> Result<(), GgufErrorKind> {
    if !path.is_dir() {
        return Ok(());
    }
    Err(GgufErrorKind::Folder {
        advice: if path.join("config.json").is_file() {
            " in Hugging Face's layout; llama.cpp's convert_hf_to_gguf.py makes a GGUF file of it \
             (only jola-train takes such a folder as a base model)"
        } else {
            "; name a file in it"
        },
    })
}

/// What a file is that does not begin as GGUF does, as the end of a sentence.
pub(super) fn other_format(bytes: &[u8]) -> &'static str {
    const LOOK: usize = 512;
    let start = &bytes[..bytes.len().min(LOOK)];
    // A cut character at the end is no reason not to call it text.
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => "",
    };
    let text = text.trim_start();
    if start.starts_with(b"PK\x03\x04") {
        "; it is a zip archive, as PyTorch writes them"
    } else if start.get(8) == Some(&b'{') && start.get(4..8) == Some(&[0; 4]) {
        "; it looks like safetensors"
    } else if text.is_empty() || text.contains('\0') {
        ""
    } else if text.starts_with("version https://git-lfs") {
        "; it is a pointer of Git LFS: `git lfs pull` fetches the file itself"
    } else if text.starts_with("<!") || text.starts_with("<html") {
        "; it is a web page: the download went wrong"
    } else if text.starts_with(['{', '[']) {
        "; it is JSON: rows go behind --data"
    } else {
        "; it is text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{GgufWriter, Splits};

    fn file(folder: &Path, entries: &[(&str, &str)]) -> Gguf {
        let mut metadata = Metadata::new();
        for (key, text) in entries {
            metadata.insert(*key, *text).unwrap();
        }
        let path = folder.join("file.gguf");
        GgufWriter::new(metadata).unwrap().write(&path).unwrap();
        Gguf::open(&path).unwrap()
    }

    #[test]
    fn files_in_each_others_places_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let model = [("general.architecture", "llama"), ("llama.block_count", "")];
        let adapter = |kind| [("general.type", "adapter"), ("adapter.type", kind)];
        let roles = [Role::Model, Role::Sidecar, Role::Lora];
        for (entries, role, said) in [
            (model, Role::Model, "it is a base model, not"),
            (
                adapter("jola"),
                Role::Sidecar,
                "it is a sidecar with an edit, not",
            ),
            (adapter("lora"), Role::Lora, "it is a LoRA adapter, not"),
        ] {
            let file = file(folder.path(), &entries);
            for expected in roles {
                match file.expect(expected) {
                    Ok(()) => assert_eq!(expected, role),
                    Err(error) => {
                        let text = error.to_string();
                        assert!(text.contains(said), "{text}");
                        assert!(text.contains(&expected.to_string()), "{text}");
                        assert!(text.ends_with(role.option()), "{text}");
                    }
                }
            }
        }
        for unknown in [
            &[][..],
            &[("general.architecture", "llama")],
            &adapter("control"),
        ] {
            let file = file(folder.path(), unknown);
            assert!(roles.iter().all(|role| file.expect(*role).is_ok()));
        }
    }

    #[test]
    fn what_is_no_gguf_is_called_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut safetensors = 70u64.to_le_bytes().to_vec();
        safetensors.extend(b"{\"__metadata__\":{}}");
        for (bytes, said) in [
            (&b"{\"prompt\": \"a\"}"[..], "rows go behind --data"),
            (b"# Notes\n", "it is text"),
            (
                b"version https://git-lfs.github.com/spec/v1",
                "git lfs pull",
            ),
            (b"<!DOCTYPE html>", "a web page"),
            (b"PK\x03\x04zip", "a zip archive"),
            (&safetensors, "safetensors"),
            (b"\xff\xfe\x00\x01\x02", "expected \"GGUF\""),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let text = Gguf::open(&path).unwrap_err().to_string();
            assert!(text.contains("not a GGUF file"), "{text}");
            assert!(text.contains(said), "{text}");
        }
        let text = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(text.contains("it is a folder; name a file"), "{text}");
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let text = Splits::open(folder.path()).unwrap_err().to_string();
        assert!(text.contains("convert_hf_to_gguf.py"), "{text}");
    }
}
