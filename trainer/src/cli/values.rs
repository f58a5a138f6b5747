//! How the values of options are read.

use crate::method::{ClosedShares, Sparsity};
use crate::train::Rate;

/// A number in [0, 1).
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("expected a share from 0 up to, but not including, 1".to_owned()),
    }
}

/// `auto`, one share for both kinds of gates, or one for each.
pub(super) fn sparsity(text: &str) -> Result<Sparsity, String> {
    if text == "auto" {
        return Ok(Sparsity::Path);
    }
    let share = |text: &str| share(text.trim()).map_err(|error| format!("{error}, or auto"));
    Ok(Sparsity::Target(match text.split_once(',') {
        None => ClosedShares::both(share(text)?),
        Some((scale, offset)) => ClosedShares {
            scale: share(scale)?,
            offset: share(offset)?,
        },
    }))
}

/// `auto` or a learning rate.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "auto" => Ok(Rate::Auto),
        _ => positive(text)
            .map(Rate::Fixed)
            .map_err(|error| format!("{error}, or auto")),
    }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a positive number".to_owned()),
    }
}

/// A number that is not negative.
pub(super) fn weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("expected a number from 0".to_owned()),
    }
}

pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1".to_owned()),
        Ok(value) => Ok(value),
    }
}
