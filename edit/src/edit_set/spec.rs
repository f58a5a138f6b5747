//! `FILE:SCALE`, as users type it.

use std::path::PathBuf;

/// Why a `FILE:SCALE` cannot be meant.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// No file name before the scale, or nothing at all.
    #[error("`{spec}` names no file")]
    NoFile {
        /// What was typed.
        spec: String,
    },
    /// A scale that is infinite or not a number.
    #[error("`{spec}` has the scale {scale}, expected a finite number")]
    Scale {
        /// What was typed.
        spec: String,
        /// The scale in it.
        scale: f32,
    },
}

/// Splits `FILE:SCALE` at its last colon. Without a number after it, all of it is the file
/// and the scale is 1, so that `C:\edit.gguf` and `a:b.gguf` are files.
///
/// # Errors
/// Any [`SpecError`].
pub fn parse_spec(spec: &str) -> Result<(PathBuf, f32), SpecError> {
    let scaled = spec
        .rsplit_once(':')
        .and_then(|(file, scale)| Some((file, scale.parse::<f32>().ok()?)));
    let (file, scale) = scaled.unwrap_or((spec, 1.0));
    if file.is_empty() {
        return Err(SpecError::NoFile {
            spec: spec.to_owned(),
        });
    }
    if !scale.is_finite() {
        return Err(SpecError::Scale {
            spec: spec.to_owned(),
            scale,
        });
    }
    Ok((file.into(), scale))
}
