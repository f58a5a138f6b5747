//! `FILE:STRENGTH`, as users type it, and several of them in one text, as one program hands
//! them to another.

use std::path::PathBuf;

/// The environment variable by which a program is told its edits: specs separated by commas,
/// as [`join_specs`] makes them.
pub const SPECS_VARIABLE: &str = "LLAMA_JOLA";

/// What stands between specs.
const SEPARATOR: char = ',';

/// Why a `FILE:STRENGTH` cannot be meant, or not be handed on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// No file name before the strength, or nothing at all.
    #[error("`{spec}` names no file")]
    NoFile {
        /// What was typed.
        spec: String,
    },
    /// A strength that is infinite or not a number.
    #[error("`{spec}` has the strength {strength}, expected a finite number")]
    Strength {
        /// What was typed.
        spec: String,
        /// The number in it.
        strength: f32,
    },
    /// A path that would be taken for several.
    #[error("{}: a comma separates sidecars, the path must not have one", path.display())]
    Comma {
        /// The path with the comma.
        path: PathBuf,
    },
    /// A path that a text cannot hold.
    #[error("{}: its path is not UTF-8", path.display())]
    NotUtf8 {
        /// The path, shown with what is wrong replaced.
        path: PathBuf,
    },
}

/// Splits `FILE:STRENGTH` at its last colon. Without a number after it, all of it is the file
/// and the strength is 1, so that `C:\edit.gguf` and `a:b.gguf` are files.
///
/// # Errors
/// [`SpecError::NoFile`] and [`SpecError::Strength`].
pub fn parse_spec(spec: &str) -> Result<(PathBuf, f32), SpecError> {
    let with_strength = spec
        .rsplit_once(':')
        .and_then(|(file, strength)| Some((file, strength.parse::<f32>().ok()?)));
    let (file, strength) = with_strength.unwrap_or((spec, 1.0));
    if file.is_empty() {
        return Err(SpecError::NoFile {
            spec: spec.to_owned(),
        });
    }
    if !strength.is_finite() {
        return Err(SpecError::Strength {
            spec: spec.to_owned(),
            strength,
        });
    }
    Ok((file.into(), strength))
}

/// One text for all `specs`, from which [`split_specs`] and [`parse_spec`] make the same ones.
/// Each has its strength, so that a path with colons, or with a number behind one, stays whole.
///
/// # Errors
/// Any [`SpecError`].
pub fn join_specs(specs: &[(PathBuf, f32)]) -> Result<String, SpecError> {
    let specs = specs.iter().map(|(path, strength)| {
        let Some(file) = path.to_str() else {
            return Err(SpecError::NotUtf8 { path: path.clone() });
        };
        if file.contains(SEPARATOR) {
            return Err(SpecError::Comma { path: path.clone() });
        }
        let spec = format!("{file}:{strength}");
        parse_spec(&spec).map(|_| spec)
    });
    let specs = specs.collect::<Result<Vec<String>, _>>()?;
    Ok(specs.join(&SEPARATOR.to_string()))
}

/// The specs of one text, each for [`parse_spec`]; nothing between two commas is skipped.
pub fn split_specs(text: &str) -> impl Iterator<Item = &str> {
    text.split(SEPARATOR).filter(|spec| !spec.is_empty())
}
