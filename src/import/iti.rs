//! Vectors of inference-time intervention (ITI) as NumPy arrays.
//!
//! ITI's code keeps no file of its edit, it computes α·σ·direction for each chosen head: one array
//! of offsets `[layers, heads, width]` is read (also with layers and heads, or heads and width, in
//! one dimension), or an npz with `direction` of these shapes and `std`, σ by layer and head.
//! Directions are normalised as ITI's code does. The original edits only the last position of a
//! prompt and those generated; a sidecar edits every position, unless `llama-jola run` or `eval` is
//! told otherwise.

use jola_edit::sidecar::BaseShape;

use super::{Array, Files, ImportError, ImportErrorKind, Vectors};

const LAYOUT: &str = "expected one array of offsets, or `direction` and `std`";

/// Reads the edit; `alpha` scales it.
pub(super) fn read(
    files: &Files<'_>,
    shape: &BaseShape,
    alpha: f32,
) -> Result<Vectors, ImportError> {
    let heads: u64 = shape.head_count.iter().map(|count| u64::from(*count)).sum();
    let layers = u64::from(shape.block_count);
    let width = u64::from(shape.head_dim);
    let check = |name: &str, array: &Array, each: u64| {
        let per_layer = heads / layers.max(1);
        let mut layouts = vec![vec![heads, each]];
        if heads == layers * per_layer
            && shape.head_count.iter().all(|c| u64::from(*c) == per_layer)
        {
            layouts.push(vec![layers, per_layer, each]);
            layouts.push(vec![layers, per_layer * each]);
        }
        let dims = |shape: &[u64]| {
            shape
                .iter()
                .copied()
                .filter(|d| *d != 1)
                .collect::<Vec<_>>()
        };
        if layouts
            .iter()
            .any(|layout| dims(layout) == dims(&array.shape))
        {
            return Ok(());
        }
        Err(files.error(
            name,
            ImportErrorKind::Shape {
                tensor: name.to_owned(),
                expected: format!("[{layers}, {per_layer}, {each}] or [{heads}, {each}]"),
                found: array.shape.clone(),
            },
        ))
    };
    let names: Vec<&str> = files.names().collect();
    let (vectors, sigma) = match names.as_slice() {
        ["direction", "std"] => {
            let sigma = files.read("std")?;
            check("std", &sigma, 1)?;
            ("direction", Some(sigma.values))
        }
        [only] => (*only, None),
        _ => return Err(files.no_edit(LAYOUT)),
    };
    let array = files.read(vectors)?;
    check(vectors, &array, width)?;
    let mut add = std::collections::BTreeMap::new();
    let heads = (0u32..).zip(&shape.head_count);
    let heads = heads.flat_map(|(layer, count)| (0..*count).map(move |head| (layer, head)));
    let rows = array.values.chunks_exact((width as usize).max(1));
    for (index, (head, row)) in heads.zip(rows).enumerate() {
        let norm = row
            .iter()
            .map(|v| f64::from(*v).powi(2))
            .sum::<f64>()
            .sqrt();
        let factor = match &sigma {
            Some(sigma) if norm > 0.0 => f64::from(sigma[index]) / norm,
            _ => 1.0,
        };
        let factor = factor * f64::from(alpha);
        let offset = row.iter().map(|value| (f64::from(*value) * factor) as f32);
        add.insert(head, offset.collect());
    }
    Ok(Vectors {
        add,
        method: "iti",
        warnings: vec![
            "ITI edits only the last position of a prompt and those generated. `llama-jola run` \
             and `eval` do so with --jola-tokens generated, else this edit is applied at every \
             position"
                .to_owned(),
        ],
        ..Vectors::default()
    })
}
