//! Several sidecars as one: their composition, written as a sidecar again.
//!
//! A composed edit is of the same form as each of its parts, so the file needs nothing new. What
//! it says about its training is only what holds for all of them: a rate or a score belongs to
//! one run, and a merged edit has none.

use std::collections::BTreeMap;

use super::{ComposeError, DenseEdit, EditSet};
use crate::gguf::{Array, GgufErrorKind, Metadata};
use crate::sidecar::{BaseWeights, Doubt, HeadVectors, LayerEdit, Sidecar, Training};

/// What `jola.method` says in a merged sidecar.
pub const MERGED: &str = "merge";

/// Keys below `jola.train.`.
mod keys {
    pub const NAMES: &str = "merged_names";
    pub const STRENGTHS: &str = "merged_strengths";
    pub const DIGESTS: &str = "merged_sha256";
}

/// One of the sidecars to merge.
#[derive(Debug, Clone, Copy)]
pub struct MergeSource<'a> {
    /// The edit.
    pub sidecar: &'a Sidecar,
    /// The user's strength.
    pub strength: f32,
    /// SHA-256 of its file.
    pub sha256: &'a str,
}

/// Several sidecars as one.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The merged edit; its name is empty.
    pub sidecar: Sidecar,
    /// How many factors are not bit for bit those of the list. A sidecar stores differences from
    /// 1, which are too coarse for some factors below a half: these are rounded, by 2⁻²⁴ at most
    /// where they are between -1 and 1.
    pub rounded: usize,
}

/// Why sidecars cannot be merged. Positions count from 0 in the order given.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Nothing to merge.
    #[error("there are no edits to merge")]
    Nothing,
    /// They cannot be composed.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// Two were trained on different models of the same shape.
    #[error("edits 0 and {position} were trained on different models of the same shape")]
    OtherWeights {
        /// Position of the sidecar.
        position: usize,
    },
    /// A digest or name that the container refuses.
    #[error(transparent)]
    Metadata(#[from] GgufErrorKind),
}

/// Merges sidecars in the order in which they would be applied.
///
/// # Errors
/// Any [`MergeError`].
pub fn merge(sources: &[MergeSource<'_>]) -> Result<Merged, MergeError> {
    let Some(first) = sources.first().map(|source| source.sidecar) else {
        return Err(MergeError::Nothing);
    };
    let pairs: Vec<(&Sidecar, f32)> = sources.iter().map(|s| (s.sidecar, s.strength)).collect();
    let composed = EditSet::compose(&pairs)?;
    let base = first.training().base;
    for (position, source) in sources.iter().enumerate() {
        if source.sidecar.doubt_base(&base) == Some(Doubt::OtherWeights) {
            return Err(MergeError::OtherWeights { position });
        }
    }
    let shape = first.base_shape();
    let layers = composed
        .layers
        .iter()
        .map(|(&layer, edit)| (layer, to_layer(edit, first.head_dim)))
        .collect();
    let mut sidecar = shape.sidecar(MERGED, layers);
    sidecar.base_model_name = first.base_model_name.clone();
    sidecar.base_sha256 = shared(sources, |sidecar| sidecar.base_sha256.clone());
    sidecar.train = notes(sources)?;
    let again = EditSet::compose(&[(&sidecar, 1.0)])?;
    Ok(Merged {
        rounded: differences(&composed, &again),
        sidecar,
    })
}

/// What all say, and where they come from.
fn notes(sources: &[MergeSource<'_>]) -> Result<Metadata, GgufErrorKind> {
    let said = |get: fn(Training) -> Option<String>| shared(sources, |s| get(s.training()));
    let training = Training {
        format: shared(sources, |s| s.training().format),
        template_sha256: said(|training| training.template_sha256),
        turns: said(|training| training.turns),
        base: BaseWeights {
            bytes: shared(sources, |s| s.training().base.bytes),
            sample_sha256: said(|training| training.base.sample_sha256),
            norms_sha256: said(|training| training.base.norms_sha256),
        },
    };
    let mut train = Metadata::new();
    training.note(&mut train)?;
    let names = sources.iter().map(|s| s.sidecar.name.clone()).collect();
    let strengths = sources.iter().map(|s| s.strength).collect();
    let digests = sources.iter().map(|s| s.sha256.to_owned()).collect();
    train.insert(keys::NAMES, Array::String(names))?;
    train.insert(keys::STRENGTHS, Array::F32(strengths))?;
    train.insert(keys::DIGESTS, Array::String(digests))?;
    Ok(train)
}

/// What all sidecars say, if they say the same.
fn shared<T: PartialEq>(
    sources: &[MergeSource<'_>],
    get: impl Fn(&Sidecar) -> Option<T>,
) -> Option<T> {
    let mut all = sources.iter().map(|source| get(source.sidecar));
    let first = all.next()??;
    all.all(|other| other.as_ref() == Some(&first))
        .then_some(first)
}

/// The rows of a layer as vectors of the heads that they change.
fn to_layer(edit: &DenseEdit, head_dim: u32) -> LayerEdit {
    // The difference is taken in 64 bits and rounded once.
    let difference = |&factor: &f32| (f64::from(factor) - 1.0) as f32;
    LayerEdit {
        mul: edit
            .factor()
            .and_then(|row| vectors(row.iter().map(difference).collect(), head_dim)),
        add: edit.add().and_then(|row| vectors(row.to_vec(), head_dim)),
    }
}

/// The heads whose values are not all zero; `None` if there is none.
fn vectors(row: Vec<f32>, head_dim: u32) -> Option<HeadVectors> {
    let rows = (0..).zip(row.chunks_exact(head_dim as usize));
    let changed = rows.filter(|(_, vector)| vector.iter().any(|&value| value != 0.0));
    let (heads, values): (Vec<u32>, Vec<&[f32]>) = changed.unzip();
    (!heads.is_empty()).then(|| HeadVectors {
        heads,
        values: values.concat(),
    })
}

/// How many factors of two composed edits differ.
fn differences(a: &EditSet, b: &EditSet) -> usize {
    let rows = |set: &EditSet| -> BTreeMap<u32, Vec<f32>> {
        let layers = set.layers.iter();
        let rows = layers.filter_map(|(&layer, edit)| Some((layer, edit.factor()?.to_vec())));
        rows.collect()
    };
    let (a, mut b) = (rows(a), rows(b));
    let of_layer = |(layer, row): (u32, Vec<f32>)| {
        let other = b.remove(&layer).unwrap_or_else(|| vec![1.0; row.len()]);
        row.iter().zip(&other).filter(|(a, b)| a != b).count()
    };
    a.into_iter().map(of_layer).sum()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::gguf::Value;
    use crate::sidecar::tests::example;
    use crate::sidecar::tests::properties::sidecars;

    const DIGEST: &str = "aa";

    fn source(sidecar: &Sidecar, strength: f32) -> MergeSource<'_> {
        MergeSource {
            sidecar,
            strength,
            sha256: DIGEST,
        }
    }

    /// The example with other notes of its training.
    fn noted(notes: &[(&str, Value)]) -> Sidecar {
        let mut train = Metadata::new();
        for (key, value) in notes {
            train.insert(*key, value.clone()).unwrap();
        }
        Sidecar { train, ..example() }
    }

    #[test]
    fn only_what_holds_for_all_is_kept() {
        let text = |text: &str| Value::from(text);
        let a = noted(&[
            ("seed", 1u64.into()),
            ("validation", text("loss 0.5")),
            ("format", text("chat")),
            ("turns", text("all")),
            ("base_norms_sha256", text("n")),
            ("base_sample_sha256", text("s")),
            ("base_bytes", 8u64.into()),
        ]);
        let mut b = noted(&[
            ("seed", 1u64.into()),
            ("format", text("chat")),
            ("turns", text("last")),
            ("base_norms_sha256", text("n")),
            ("base_sample_sha256", text("other quantisation")),
            ("base_bytes", 9u64.into()),
        ]);
        b.name = "second".to_owned();
        let merged = merge(&[source(&a, 1.0), source(&b, 0.5)]).unwrap().sidecar;
        let kept: Vec<_> = merged.train.iter().map(|(key, _)| key).collect();
        let own = ["merged_names", "merged_strengths", "merged_sha256"];
        assert_eq!(kept, [&["format", "base_norms_sha256"][..], &own].concat());
        let names = merged.train.get("merged_names").unwrap().as_array();
        assert_eq!(names.unwrap().as_strings().unwrap(), ["Example", "second"]);
        let strengths = Value::Array(Array::F32(vec![1.0, 0.5]));
        assert_eq!(merged.train.get("merged_strengths"), Some(&strengths));
        assert_eq!(merged.method, MERGED);
        assert_eq!(merged.base_sha256, example().base_sha256);
        b.base_sha256 = None;
        let merged = merge(&[source(&a, 1.0), source(&b, 0.5)]).unwrap().sidecar;
        assert_eq!(merged.base_sha256, None);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let of_norms = |norms: &str| noted(&[("base_norms_sha256", norms.into())]);
        let (a, b) = (of_norms("a"), of_norms("b"));
        let error = merge(&[source(&a, 1.0), source(&b, 1.0)]).unwrap_err();
        assert!(matches!(error, MergeError::OtherWeights { position: 1 }));
        assert!(matches!(merge(&[]).unwrap_err(), MergeError::Nothing));
        let other = Sidecar {
            head_dim: 4,
            layers: BTreeMap::new(),
            ..example()
        };
        let error = merge(&[source(&a, 1.0), source(&other, 1.0)]).unwrap_err();
        assert!(matches!(error, MergeError::Compose(_)), "{error}");
    }

    #[test]
    fn edits_that_cancel_leave_an_edit_of_nothing() {
        let edit = example();
        let opposite = merge(&[source(&edit, 0.0)]).unwrap();
        assert!(opposite.sidecar.layers.is_empty());
        assert!(opposite.sidecar.validate().is_ok());
    }

    proptest! {
        #[test]
        fn a_merged_edit_is_its_list(
            sidecar in sidecars(),
            strengths in vec(-2f32..2.0, 1..4),
        ) {
            let mut sidecar = sidecar;
            for edit in sidecar.layers.values_mut() {
                for half in [&mut edit.mul, &mut edit.add].into_iter().flatten() {
                    half.values.iter_mut().for_each(|value| *value = value.sin());
                }
            }
            let sources: Vec<_> = strengths.iter().map(|&s| source(&sidecar, s)).collect();
            let merged = merge(&sources).unwrap();
            let pairs: Vec<_> = strengths.iter().map(|&strength| (&sidecar, strength)).collect();
            let list = EditSet::compose(&pairs).unwrap();
            let one = EditSet::compose(&[(&merged.sidecar, 1.0)]).unwrap();
            let mut rounded = 0;
            for (layer, edit) in &list.layers {
                let same = &one.layers[layer];
                prop_assert_eq!(edit.add(), same.add());
                let none = vec![1.0; edit.width()];
                let rows = [edit, same].map(|edit| edit.factor().unwrap_or(&none));
                for (&wanted, &found) in rows[0].iter().zip(rows[1]) {
                    rounded += usize::from(wanted != found);
                    prop_assert!(wanted < 0.5 || wanted == found);
                    let step = (1.0 + wanted.abs()) * (-24f32).exp2();
                    prop_assert!((wanted - found).abs() <= step);
                }
            }
            prop_assert_eq!(one.layers.len(), list.layers.len());
            prop_assert_eq!(merged.rounded, rounded);
        }
    }
}
