//! The composed edit of one layer. Its fields are private, since whoever brings it into a graph
//! or applies it on the host relies on what its constructor checks.

/// The edit of one layer's concatenated head outputs z, `z' = factor ⊙ z + add`: one row or
/// two of the same width, all values finite.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseEdit {
    factor: Option<Vec<f32>>,
    add: Option<Vec<f32>>,
}

/// Why rows are no edit of a layer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DenseEditError {
    /// Neither row is there, or one without values.
    #[error("the edit of a layer has no values")]
    Empty,
    /// The rows differ in width.
    #[error("the edit of a layer has {factor} factors and {add} offsets, expected as many")]
    Widths {
        /// Number of factors.
        factor: usize,
        /// Number of offsets.
        add: usize,
    },
    /// A value that is infinite or not a number.
    #[error("the edit of a layer holds {found} at index {index}, expected a finite number")]
    NotFinite {
        /// Position in its row.
        index: usize,
        /// The infinity or NaN.
        found: f32,
    },
}

impl DenseEdit {
    /// An edit of whole factors and of offsets, each `[head_count * head_dim]`.
    ///
    /// A factor is 1 where nothing is edited (a sidecar's `mul` is the difference from 1), an
    /// offset 0. `None` stands for a row of only those.
    ///
    /// # Errors
    /// Any [`DenseEditError`].
    pub fn new(factor: Option<Vec<f32>>, add: Option<Vec<f32>>) -> Result<Self, DenseEditError> {
        if let (Some(factor), Some(add)) = (&factor, &add) {
            if factor.len() != add.len() {
                let (factor, add) = (factor.len(), add.len());
                return Err(DenseEditError::Widths { factor, add });
            }
        }
        for row in [&factor, &add].into_iter().flatten() {
            if let Some(index) = row.iter().position(|value| !value.is_finite()) {
                let found = row[index];
                return Err(DenseEditError::NotFinite { index, found });
            }
        }
        let edit = Self { factor, add };
        match edit.width() {
            0 => Err(DenseEditError::Empty),
            _ => Ok(edit),
        }
    }

    /// Whole factors; `None`: all ones.
    pub fn factor(&self) -> Option<&[f32]> {
        self.factor.as_deref()
    }

    /// Offsets; `None`: all zeros.
    pub fn add(&self) -> Option<&[f32]> {
        self.add.as_deref()
    }

    /// Length of the rows, at least 1.
    pub fn width(&self) -> usize {
        let row = self.factor().or(self.add());
        row.map_or(0, <[f32]>::len)
    }

    /// Edits head outputs in place, one token's after another's, on the host: product and sum
    /// are each rounded, as in a graph. What is left over behind the last whole row stays.
    pub fn apply(&self, head_outputs: &mut [f32]) {
        for row in head_outputs.chunks_exact_mut(self.width()) {
            if let Some(factor) = self.factor() {
                row.iter_mut()
                    .zip(factor)
                    .for_each(|(z, factor)| *z *= factor);
            }
            if let Some(add) = self.add() {
                row.iter_mut().zip(add).for_each(|(z, add)| *z += add);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_no_edit_are_refused() {
        let refused = |factor: Option<Vec<f32>>, add: Option<Vec<f32>>| {
            DenseEdit::new(factor, add).unwrap_err().to_string()
        };
        let empty = "the edit of a layer has no values";
        assert_eq!(refused(None, None), empty);
        assert_eq!(refused(Some(Vec::new()), None), empty);
        assert_eq!(refused(Some(Vec::new()), Some(Vec::new())), empty);
        assert_eq!(
            refused(Some(vec![1.0; 4]), Some(vec![0.0; 3])),
            "the edit of a layer has 4 factors and 3 offsets, expected as many"
        );
        assert_eq!(
            refused(Some(vec![1.0, 2.0]), Some(vec![0.0, f32::INFINITY])),
            "the edit of a layer holds inf at index 1, expected a finite number"
        );
        assert!(refused(Some(vec![f32::NAN]), None).contains("NaN at index 0"));
    }

    #[test]
    fn rows_are_applied_token_by_token() {
        let edit = DenseEdit::new(Some(vec![2.0, 1.0]), Some(vec![0.0, 0.5])).unwrap();
        let mut values = [1.0, 2.0, 3.0, 4.0, 5.0];
        edit.apply(&mut values);
        assert_eq!(values, [2.0, 2.5, 6.0, 4.5, 5.0]);
    }
}
