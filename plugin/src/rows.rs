//! Edits as rows that stay where they are while their values change.
//!
//! A graph holds a row for each half of each edited layer. If every sidecar that a context may
//! be given has its rows from the start, another choice among them only overwrites values, and
//! no graph is built anew.

use jola_edit::{DenseEdit, EditSet, Sidecar};

/// `edits`, and rows that change nothing where one of `sidecars` has a half of a layer that
/// `edits` has not.
pub fn widened<'a>(mut edits: EditSet, sidecars: impl IntoIterator<Item = &'a Sidecar>) -> EditSet {
    for sidecar in sidecars {
        for (&layer, edit) in &sidecar.layers {
            let heads = sidecar.head_count.at(layer).unwrap_or(0);
            let width = heads as usize * sidecar.head_dim as usize;
            let old = edits.layers.get(&layer);
            let row = |old: Option<&[f32]>, wanted: bool, neutral: f32| match old {
                Some(row) => Some(row.to_vec()),
                None => wanted.then(|| vec![neutral; width]),
            };
            let factor = row(old.and_then(DenseEdit::factor), edit.mul.is_some(), 1.0);
            let add = row(old.and_then(DenseEdit::add), edit.add.is_some(), 0.0);
            // Sidecars of one model agree in their widths, which leaves nothing to refuse; else
            // the layer's own rows stay.
            if let Ok(edit) = DenseEdit::new(factor, add) {
                edits.layers.insert(layer, edit);
            }
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jola_edit::{BaseShape, HeadVectors, LayerEdit};

    use super::*;

    fn sidecar(layers: &[(u32, bool, bool)]) -> Sidecar {
        let base = BaseShape {
            architecture: "llama".into(),
            block_count: 4,
            head_count: vec![2; 4],
            head_dim: 3,
        };
        let vectors = || HeadVectors {
            heads: vec![1],
            values: vec![0.5; 3],
        };
        let edit = |&(layer, mul, add): &(u32, bool, bool)| {
            let edit = LayerEdit {
                mul: mul.then(vectors),
                add: add.then(vectors),
            };
            (layer, edit)
        };
        base.sidecar("test", layers.iter().map(edit).collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn rows_are_there_for_every_sidecar_and_change_nothing() {
        let (a, b) = (
            sidecar(&[(0, true, false)]),
            sidecar(&[(0, false, true), (2, true, true)]),
        );
        let none = widened(EditSet::default(), [&a, &b]);
        assert_eq!(none.layers.keys().collect::<Vec<_>>(), [&0, &2]);
        for edit in none.layers.values() {
            assert_eq!(edit.factor(), Some(&[1.0; 6][..]));
            assert_eq!(edit.add(), Some(&[0.0; 6][..]));
        }
        // Whatever is chosen, the rows are the same ones.
        for chosen in [
            vec![(&a, 1.0)],
            vec![(&b, 0.5)],
            vec![(&a, 1.0), (&b, -1.0)],
        ] {
            let composed = EditSet::compose(&chosen).unwrap();
            let rows = widened(composed.clone(), [&a, &b]);
            for (layer, edit) in &rows.layers {
                assert_eq!((edit.width(), edit.factor().is_some()), (6, true));
                assert!(edit.add().is_some());
                let own = composed.layers.get(layer);
                if let Some(factor) = own.and_then(DenseEdit::factor) {
                    assert_eq!(edit.factor(), Some(factor));
                }
            }
        }
        assert_eq!(widened(EditSet::default(), []), EditSet::default());
    }
}
