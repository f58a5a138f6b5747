//! One or more sidecars, composed into what a graph applies: per layer one row to multiply
//! with and one to add.
//!
//! Composition happens here, once, so that a graph costs the same for any number of
//! sidecars, and so that every engine that applies edits uses the same numbers.

mod spec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use spec::{parse_spec, SpecError};

use crate::sidecar::{BaseMismatch, BaseShape, LayerEdit, Sidecar, SidecarErrorKind};

/// The composed edit of a model: only layers whose output it changes.
///
/// Empty for no sidecars, for sidecars without edits and for scales of 0; a graph is then to
/// be left as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EditSet {
    /// Edited layers, counted from 0.
    pub layers: BTreeMap<u32, DenseEdit>,
}

/// The edit of one layer's concatenated head outputs z, `z' = mul ⊙ z + add`; at least one
/// row is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DenseEdit {
    /// Factors `[head_count * head_dim]`, 1 where nothing is edited. `None`: all ones.
    pub mul: Option<Vec<f32>>,
    /// Offsets `[head_count * head_dim]`, 0 where nothing is edited. `None`: all zeros.
    pub add: Option<Vec<f32>>,
}

impl DenseEdit {
    /// Length of the rows.
    pub fn width(&self) -> usize {
        self.mul.as_ref().or(self.add.as_ref()).map_or(0, Vec::len)
    }
}

/// Why sidecars cannot be composed. Positions count from 0 in the order given.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// A scale that is infinite or not a number.
    #[error("edit {position} has the scale {scale}, expected a finite number")]
    Scale {
        /// Which sidecar.
        position: usize,
        /// Its scale.
        scale: f32,
    },
    /// A sidecar in memory that breaks a rule of the format.
    #[error("edit {position} is invalid: {kind}")]
    Invalid {
        /// Which sidecar.
        position: usize,
        /// The rule.
        kind: SidecarErrorKind,
    },
    /// A sidecar for another base model than the first.
    #[error("edits 0 and {position} are for different models: {mismatch}")]
    Base {
        /// Which sidecar.
        position: usize,
        /// The difference; what was expected is the sidecar's, what was found the first's.
        mismatch: BaseMismatch,
    },
    /// A composed number beyond the range of 32-bit floats.
    #[error("the edits of layer {layer} overflow at index {index}: use smaller scales")]
    Overflow {
        /// The layer, counted from 0.
        layer: u32,
        /// Position in the layer's row, head times head width plus dimension.
        index: usize,
    },
}

impl EditSet {
    /// Composes sidecars, each with a user's scale `s`, in the order given: each turns `z` into
    /// `(1 + s·mul) ⊙ z + s·add`. Computed in 64-bit floats and rounded once.
    ///
    /// # Errors
    /// Any [`ComposeError`].
    pub fn compose(edits: &[(&Sidecar, f32)]) -> Result<Self, ComposeError> {
        let mut base: Option<BaseShape> = None;
        let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
        for (position, &(sidecar, scale)) in edits.iter().enumerate() {
            if !scale.is_finite() {
                return Err(ComposeError::Scale { position, scale });
            }
            sidecar
                .validate()
                .map_err(|kind| ComposeError::Invalid { position, kind })?;
            let base = base.get_or_insert_with(|| sidecar.base_shape());
            sidecar
                .check_base(base)
                .map_err(|mismatch| ComposeError::Base { position, mismatch })?;
            for (&layer, edit) in &sidecar.layers {
                let head_count = sidecar.head_count.at(layer).unwrap_or(0);
                let row = rows
                    .entry(layer)
                    .or_insert_with(|| Row::identity(head_count, sidecar.head_dim));
                row.apply(edit, sidecar.head_dim, scale.into());
            }
        }
        let mut layers = BTreeMap::new();
        for (layer, row) in rows {
            let edit = row
                .round()
                .map_err(|index| ComposeError::Overflow { layer, index })?;
            if edit.mul.is_some() || edit.add.is_some() {
                layers.insert(layer, edit);
            }
        }
        Ok(Self { layers })
    }

    /// Whether nothing is edited.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

/// A layer's composed edit before rounding: `z' = mul ⊙ z + add`.
struct Row {
    mul: Vec<f64>,
    add: Vec<f64>,
}

impl Row {
    fn identity(head_count: u32, head_dim: u32) -> Self {
        let len = head_count as usize * head_dim as usize;
        Self {
            mul: vec![1.0; len],
            add: vec![0.0; len],
        }
    }

    /// Follows this edit by another. The scale comes first, as it also scales earlier offsets.
    fn apply(&mut self, edit: &LayerEdit, head_dim: u32, scale: f64) {
        for (head, vector) in edit.mul.iter().flat_map(|v| v.iter(head_dim)) {
            let start = head as usize * head_dim as usize;
            let mul = self.mul.iter_mut().skip(start);
            let add = self.add.iter_mut().skip(start);
            for ((mul, add), &value) in mul.zip(add).zip(vector) {
                let factor = 1.0 + scale * f64::from(value);
                *mul *= factor;
                *add *= factor;
            }
        }
        for (head, vector) in edit.add.iter().flat_map(|v| v.iter(head_dim)) {
            let start = head as usize * head_dim as usize;
            for (add, &value) in self.add.iter_mut().skip(start).zip(vector) {
                *add += scale * f64::from(value);
            }
        }
    }

    /// The row in 32-bit floats, without what changes nothing; or where it overflows.
    fn round(&self) -> Result<DenseEdit, usize> {
        Ok(DenseEdit {
            mul: round(&self.mul, 1.0)?,
            add: round(&self.add, 0.0)?,
        })
    }
}

/// `None` if all values round to `neutral`; an error is the index of a value that is not finite.
fn round(row: &[f64], neutral: f32) -> Result<Option<Vec<f32>>, usize> {
    let rounded: Vec<f32> = row.iter().map(|&value| value as f32).collect();
    if let Some(index) = rounded.iter().position(|value| !value.is_finite()) {
        return Err(index);
    }
    let changes = rounded.iter().any(|&value| value != neutral);
    Ok(changes.then_some(rounded))
}
