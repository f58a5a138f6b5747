//! Sequences with edits of their own in one batch: each computes just what it would if all had
//! its edits.

mod library;
mod memory;
mod mixed;
mod scores;

use jola_edit::{DenseEdit, EditSet};
use testkit::Random;

/// What an edit set has of each layer.
#[derive(Clone, Copy)]
enum Parts {
    Both,
    /// Factors of even layers, offsets of odd ones.
    Turning,
    /// Offsets of all layers.
    Offsets,
}

/// Random edits of layers with these widths.
fn edits(seed: u64, layers: &[(u32, usize)], parts: Parts) -> EditSet {
    let mut random = Random::new(seed);
    let mut row = |width: usize, base: f32| {
        let values = (0..width).map(|_| base + 0.3 * random.signed());
        values.collect::<Vec<f32>>()
    };
    let layers = layers.iter().map(|&(layer, width)| {
        let (factor, add) = (row(width, 1.0), row(width, 0.0));
        let edit = match parts {
            Parts::Both => DenseEdit::new(Some(factor), Some(add)),
            Parts::Turning if layer % 2 == 0 => DenseEdit::new(Some(factor), None),
            Parts::Turning | Parts::Offsets => DenseEdit::new(None, Some(add)),
        };
        (layer, edit.unwrap())
    });
    EditSet {
        layers: layers.collect(),
    }
}
