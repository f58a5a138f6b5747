//! Tests of composition and of `FILE:STRENGTH`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::sidecar::tests::example;
use crate::sidecar::tests::properties::sidecars;
use crate::sidecar::{HeadCount, HeadVectors};

/// One layer of two heads of width 1, both edited.
fn small(mul: [f32; 2], add: [f32; 2]) -> Sidecar {
    let half = |values: [f32; 2]| {
        Some(HeadVectors {
            heads: vec![0, 1],
            values: values.to_vec(),
        })
    };
    let edit = LayerEdit {
        mul: half(mul),
        add: half(add),
    };
    Sidecar {
        block_count: 1,
        head_count: HeadCount::Uniform(2),
        head_dim: 1,
        layers: BTreeMap::from([(0, edit)]),
        ..example()
    }
}

fn rows(factor: Option<[f32; 2]>, add: Option<[f32; 2]>) -> BTreeMap<u32, DenseEdit> {
    let edit = DenseEdit::new(factor.map(Vec::from), add.map(Vec::from));
    BTreeMap::from([(0, edit.unwrap())])
}

#[test]
fn rows_are_neutral_where_nothing_is_edited() {
    let set = EditSet::compose(&[(&example(), 2.0)]).unwrap();
    let expected = BTreeMap::from([
        (
            0,
            DenseEdit::new(
                Some(vec![1.0, 1.0, 2.0, 0.5]),
                Some(vec![6.0, 8.0, 0.0, -4.0]),
            )
            .unwrap(),
        ),
        (
            2,
            DenseEdit::new(None, Some(vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0])).unwrap(),
        ),
    ]);
    assert_eq!(set.layers, expected);
    assert!(!set.is_empty());
}

#[test]
fn sidecars_apply_in_the_order_given() {
    let scale = small([1.0, 0.0], [0.0, 0.0]);
    let offset = small([0.0, 0.0], [3.0, 5.0]);
    let scale_first = EditSet::compose(&[(&scale, 1.0), (&offset, 1.0)]).unwrap();
    assert_eq!(scale_first.layers, rows(Some([2.0, 1.0]), Some([3.0, 5.0])));
    let offset_first = EditSet::compose(&[(&offset, 1.0), (&scale, 1.0)]).unwrap();
    assert_eq!(
        offset_first.layers,
        rows(Some([2.0, 1.0]), Some([6.0, 5.0]))
    );
}

#[test]
fn edits_that_change_nothing_leave_nothing() {
    let neutral = small([0.0, -0.0], [0.0, -0.0]);
    let empty = Sidecar {
        layers: BTreeMap::new(),
        ..example()
    };
    let offset = small([0.0, 0.0], [3.0, 5.0]);
    let sets: [&[(&Sidecar, f32)]; 5] = [
        &[],
        &[(&neutral, 1.0)],
        &[(&empty, 1.0)],
        &[(&example(), 0.0)],
        &[(&offset, 1.0), (&offset, -1.0)],
    ];
    for edits in sets {
        assert!(EditSet::compose(edits).unwrap().is_empty());
    }
}

#[test]
fn a_row_that_changes_nothing_is_left_out() {
    let offset = small([0.0, 0.0], [3.0, 0.0]);
    let set = EditSet::compose(&[(&offset, 1.0)]).unwrap();
    assert_eq!(set.layers, rows(None, Some([3.0, 0.0])));
    let scale = small([0.0, 1.0], [0.0, 0.0]);
    let set = EditSet::compose(&[(&scale, 1.0)]).unwrap();
    assert_eq!(set.layers, rows(Some([1.0, 2.0]), None));
}

#[test]
fn numbers_are_rounded_once() {
    // In 32-bit floats the small offset would be lost between the large ones.
    let large = small([0.0, 0.0], [1e8, 0.0]);
    let little = small([0.0, 0.0], [1.0, 0.0]);
    let edits = [(&large, 1.0), (&little, 1.0), (&large, -1.0)];
    let set = EditSet::compose(&edits).unwrap();
    assert_eq!(set.layers, rows(None, Some([1.0, 0.0])));
}

#[test]
fn strength() {
    for strength in [f32::NAN, f32::INFINITY] {
        let edits = [(&example(), 1.0), (&example(), strength)];
        let error = EditSet::compose(&edits).unwrap_err();
        assert!(matches!(error, ComposeError::Strength { position: 1, .. }));
        let expected = format!("edit 1 has the strength {strength}, expected a finite number");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn invalid() {
    let invalid = Sidecar {
        block_count: u32::MAX,
        ..example()
    };
    let error = EditSet::compose(&[(&invalid, 1.0)]).unwrap_err();
    assert!(matches!(error, ComposeError::Invalid { position: 0, .. }));
}

#[test]
fn base() {
    let other = Sidecar {
        architecture: "gemma3".into(),
        ..example()
    };
    let error = EditSet::compose(&[(&example(), 1.0), (&other, 1.0)]).unwrap_err();
    assert!(matches!(error, ComposeError::Base { position: 1, .. }));
}

#[test]
fn overflow() {
    let large = small([0.0, 0.0], [0.0, f32::MAX]);
    let error = EditSet::compose(&[(&large, 2.0)]).unwrap_err();
    assert!(matches!(
        error,
        ComposeError::Overflow { layer: 0, index: 1 }
    ));
    // Beyond 64-bit floats as well: infinity minus infinity.
    let huge = small([f32::MAX, 0.0], [f32::MAX, 0.0]);
    let edits = [(&huge, f32::MAX); 9];
    let error = EditSet::compose(&edits).unwrap_err();
    assert!(matches!(
        error,
        ComposeError::Overflow { layer: 0, index: 0 }
    ));
}

#[test]
fn specs() {
    let cases = [
        ("a.gguf", "a.gguf", 1.0),
        ("a.gguf:0.5", "a.gguf", 0.5),
        ("a.gguf:-1e-2", "a.gguf", -0.01),
        ("a.gguf:0", "a.gguf", 0.0),
        (r"C:\x.gguf", r"C:\x.gguf", 1.0),
        (r"C:\x.gguf:2", r"C:\x.gguf", 2.0),
        ("a:b.gguf", "a:b.gguf", 1.0),
        ("a:1:2", "a:1", 2.0),
        ("a.gguf:", "a.gguf:", 1.0),
        ("a.gguf: 2", "a.gguf: 2", 1.0),
    ];
    for (spec, file, strength) in cases {
        assert_eq!(parse_spec(spec), Ok((file.into(), strength)), "{spec}");
    }
}

#[test]
fn specs_that_cannot_be_meant() {
    for spec in [
        "a.gguf:nan",
        "a.gguf:inf",
        "a.gguf:-infinity",
        "a.gguf:1e99",
    ] {
        let error = parse_spec(spec).unwrap_err();
        assert!(matches!(error, SpecError::Strength { .. }), "{error}");
    }
    for spec in ["", ":0.5"] {
        let error = parse_spec(spec).unwrap_err();
        assert_eq!(error.to_string(), format!("`{spec}` names no file"));
    }
}

#[test]
fn specs_in_one_text() {
    let files = [("/a b/x.gguf", 1.0), (r"C:\x.gguf", -0.5), ("/e:2", 1.0)];
    let files = files.map(|(file, strength)| (file.into(), strength));
    let text = join_specs(&files).unwrap();
    assert_eq!(text, r"/a b/x.gguf:1,C:\x.gguf:-0.5,/e:2:1");
    assert_eq!(join_specs(&[]).unwrap(), "");
    // People may leave the strength out, and commas in.
    let typed: Vec<&str> = split_specs(",a.gguf,,b.gguf:2,").collect();
    assert_eq!(typed, ["a.gguf", "b.gguf:2"]);
    assert_eq!(split_specs("").count(), 0);
}

#[test]
fn specs_that_one_text_cannot_hold() {
    let error = |file: &str, strength| join_specs(&[(file.into(), strength)]).unwrap_err();
    assert_eq!(
        error("/a,b.gguf", 1.0).to_string(),
        "/a,b.gguf: a comma separates sidecars, the path must not have one"
    );
    assert!(matches!(error("", 1.0), SpecError::NoFile { .. }));
    assert!(matches!(error("a", f32::NAN), SpecError::Strength { .. }));
    #[cfg(unix)]
    {
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/\xff.gguf");
        let error = join_specs(&[(name.into(), 1.0)]).unwrap_err();
        assert!(error.to_string().ends_with("its path is not UTF-8"));
    }
}

/// Applies a sidecar to one layer's head outputs, as its definition says.
fn apply(sidecar: &Sidecar, strength: f32, layer: u32, z: &mut [f64]) {
    let Some(edit) = sidecar.layers.get(&layer) else {
        return;
    };
    let (strength, width) = (f64::from(strength), sidecar.head_dim as usize);
    let value = |half: &Option<HeadVectors>, position: usize| {
        let half = half.as_ref()?;
        let head = (position / width) as u32;
        let row = half.heads.iter().position(|&edited| edited == head)?;
        Some(f64::from(half.values[row * width + position % width]))
    };
    for (position, z) in z.iter_mut().enumerate() {
        let mul = value(&edit.mul, position).unwrap_or(0.0);
        let add = value(&edit.add, position).unwrap_or(0.0);
        *z = (1.0 + strength * mul) * *z + strength * add;
    }
}

/// Keeps values in a range where nothing overflows.
fn tame(sidecar: &mut Sidecar) {
    for edit in sidecar.layers.values_mut() {
        for half in [&mut edit.mul, &mut edit.add].into_iter().flatten() {
            half.values
                .iter_mut()
                .for_each(|value| *value = value.sin());
        }
    }
}

proptest! {
    #[test]
    fn joined_specs_come_back(
        specs in vec(("[^,\\x00]{1,20}", any::<f32>().prop_filter("finite", |s| s.is_finite())), 0..5),
    ) {
        let specs: Vec<(PathBuf, f32)> = specs
            .into_iter()
            .map(|(file, strength)| (file.into(), strength))
            .collect();
        let text = join_specs(&specs).unwrap();
        let back = split_specs(&text).map(parse_spec).collect::<Result<Vec<_>, _>>();
        prop_assert_eq!(back, Ok(specs));
    }

    #[test]
    fn composition_is_application_one_after_the_other(
        sidecar in sidecars(),
        strengths in vec(-2f32..2.0, 1..4),
    ) {
        // Two edits of one model in turn: the second has scales and offsets exchanged.
        let mut sidecar = sidecar;
        tame(&mut sidecar);
        let mut swapped = sidecar.clone();
        for edit in swapped.layers.values_mut() {
            std::mem::swap(&mut edit.mul, &mut edit.add);
        }
        let edits: Vec<(&Sidecar, f32)> = strengths
            .iter()
            .enumerate()
            .map(|(index, &strength)| (if index % 2 == 0 { &sidecar } else { &swapped }, strength))
            .collect();
        let set = EditSet::compose(&edits).unwrap();
        for layer in 0..sidecar.block_count {
            let heads = sidecar.head_count.at(layer).unwrap();
            let len = (heads * sidecar.head_dim) as usize;
            let z: Vec<f64> = (0..len).map(|i| i as f64 - 1.5).collect();
            let mut expected = z.clone();
            for &(sidecar, strength) in &edits {
                apply(sidecar, strength, layer, &mut expected);
            }
            let dense = set.layers.get(&layer);
            let row = |row: Option<&[f32]>, neutral| row.map_or(vec![neutral; len], Vec::from);
            let factor = row(dense.and_then(DenseEdit::factor), 1.0);
            let add = row(dense.and_then(DenseEdit::add), 0.0);
            prop_assert_eq!((factor.len(), add.len()), (len, len));
            for i in 0..len {
                let found = f64::from(factor[i]) * z[i] + f64::from(add[i]);
                let size = (f64::from(factor[i]) * z[i]).abs() + f64::from(add[i]).abs();
                let rounding = size * f64::from(f32::EPSILON) + f64::from(f32::MIN_POSITIVE);
                prop_assert!((found - expected[i]).abs() <= rounding);
            }
        }
    }
}
