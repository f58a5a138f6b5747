//! One or more sidecars, composed into what a graph applies: per layer one row of factors and
//! one of offsets.
//!
//! Composition happens here, once, so that a graph costs the same for any number of
//! sidecars, and so that every engine that applies edits uses the same numbers.

mod dense;
mod merge;
mod spec;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use dense::{DenseEdit, DenseEditError};
pub use merge::{merge, MergeError, MergeSource, Merged, MERGED};
pub use spec::{join_specs, parse_spec, split_specs, SpecError, SPECS_VARIABLE};

use crate::sidecar::{BaseMismatch, BaseShape, LayerEdit, Sidecar, SidecarErrorKind};

/// The composed edit of a model: only layers whose output it changes.
///
/// Empty for no sidecars, for sidecars without edits and for strengths of 0; a graph is then to
/// be left as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EditSet {
    /// Edited layers, counted from 0.
    pub layers: BTreeMap<u32, DenseEdit>,
}

/// Why sidecars cannot be composed. Positions count from 0 in the order given.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// A strength that is infinite or not a number.
    #[error("edit {position} has the strength {strength}, expected a finite number")]
    Strength {
        /// Position of the sidecar.
        position: usize,
        /// What was given with it.
        strength: f32,
    },
    /// A sidecar in memory that breaks a rule of the format.
    #[error("edit {position} is invalid: {kind}")]
    Invalid {
        /// Position of the sidecar.
        position: usize,
        /// The rule that it breaks.
        kind: SidecarErrorKind,
    },
    /// A sidecar for another base model than the first.
    #[error("edits 0 and {position} are for different models: {mismatch}")]
    Base {
        /// Position of the sidecar.
        position: usize,
        /// The difference; what was expected is the sidecar's, what was found the first's.
        mismatch: BaseMismatch,
    },
    /// A composed number beyond the range of 32-bit floats.
    #[error("the edits of layer {layer} overflow at index {index}: use smaller strengths")]
    Overflow {
        /// The layer, counted from 0.
        layer: u32,
        /// Position in the layer's row, head times head width plus dimension.
        index: usize,
    },
}

impl EditSet {
    /// Composes sidecars, each with a user's strength `s`, in the order given: each turns `z`
    /// into `(1 + s·mul) ⊙ z + s·add`. Computed in 64-bit floats and rounded once.
    ///
    /// # Errors
    /// Any [`ComposeError`].
    pub fn compose(edits: &[(&Sidecar, f32)]) -> Result<Self, ComposeError> {
        let mut base: Option<BaseShape> = None;
        for (position, &(sidecar, strength)) in edits.iter().enumerate() {
            if !strength.is_finite() {
                return Err(ComposeError::Strength { position, strength });
            }
            sidecar
                .validate()
                .map_err(|kind| ComposeError::Invalid { position, kind })?;
            let base = base.get_or_insert_with(|| sidecar.base_shape());
            sidecar
                .check_base(base)
                .map_err(|mismatch| ComposeError::Base { position, mismatch })?;
        }
        let edited = edits.iter().flat_map(|(sidecar, _)| sidecar.layers.keys());
        let edited: BTreeSet<u32> = edited.copied().collect();
        let mut layers = BTreeMap::new();
        // Layer by layer: the 64-bit floats of only one are held at once.
        for layer in edited {
            let mut row: Option<Row> = None;
            for &(sidecar, strength) in edits {
                if let Some(edit) = sidecar.layers.get(&layer) {
                    let head_count = sidecar.head_count.at(layer).unwrap_or(0);
                    row.get_or_insert_with(|| Row::identity(head_count, sidecar.head_dim))
                        .apply(edit, sidecar.head_dim, strength.into());
                }
            }
            let edit = row.map_or(Ok(None), |row| row.round());
            let edit = edit.map_err(|index| ComposeError::Overflow { layer, index })?;
            layers.extend(edit.map(|edit| (layer, edit)));
        }
        Ok(Self { layers })
    }

    /// Whether nothing is edited.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

/// A layer's composed edit before rounding: `z' = factor ⊙ z + add`.
struct Row {
    factor: Vec<f64>,
    add: Vec<f64>,
}

impl Row {
    fn identity(head_count: u32, head_dim: u32) -> Self {
        let len = head_count as usize * head_dim as usize;
        Self {
            factor: vec![1.0; len],
            add: vec![0.0; len],
        }
    }

    /// Follows this edit by another. Its factors come first, as they also multiply earlier
    /// offsets.
    fn apply(&mut self, edit: &LayerEdit, head_dim: u32, strength: f64) {
        for (head, vector) in edit.mul.iter().flat_map(|v| v.iter(head_dim)) {
            let start = head as usize * head_dim as usize;
            let factors = self.factor.iter_mut().skip(start);
            let adds = self.add.iter_mut().skip(start);
            for ((factor, add), &value) in factors.zip(adds).zip(vector) {
                let by = 1.0 + strength * f64::from(value);
                *factor *= by;
                *add *= by;
            }
        }
        for (head, vector) in edit.add.iter().flat_map(|v| v.iter(head_dim)) {
            let start = head as usize * head_dim as usize;
            for (add, &value) in self.add.iter_mut().skip(start).zip(vector) {
                *add += strength * f64::from(value);
            }
        }
    }

    /// The row in 32-bit floats, without what changes nothing; or where it overflows.
    fn round(&self) -> Result<Option<DenseEdit>, usize> {
        let (factor, add) = (round(&self.factor, 1.0)?, round(&self.add, 0.0)?);
        // Both rows have one width and finite values: only that there is none can be said
        // against them.
        Ok(DenseEdit::new(factor, add).ok())
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
