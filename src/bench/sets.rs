//! Many edits, or many LoRA adapters, which sequences have in turn.

use jola_edit::{DenseEdit, EditSet};

use crate::context::Context;
use crate::hook::LoadedEdits;
use crate::lora::Adapters;
use crate::Error;

/// `n` different edit sets of the size of `edits`: that one at as many strengths.
pub fn variants(edits: &EditSet, n: usize) -> Vec<EditSet> {
    let variant = |k: usize| {
        let strength = 1.0 - k as f32 / (2 * n) as f32;
        let layers = edits.layers.iter().filter_map(|(layer, edit)| {
            let scaled = |row: &[f32], neutral: f32| {
                row.iter()
                    .map(|x| neutral + strength * (x - neutral))
                    .collect()
            };
            let factor = edit.factor().map(|row| scaled(row, 1.0));
            let add = edit.add().map(|row| scaled(row, 0.0));
            Some((*layer, DenseEdit::new(factor, add).ok()?))
        });
        EditSet {
            layers: layers.collect(),
        }
    };
    (0..n).map(variant).collect()
}

/// What sequences have in turn.
#[derive(Debug)]
pub(super) enum Turns {
    /// All the same.
    None,
    /// Edits, loaded.
    Sets(Vec<LoadedEdits>),
    /// LoRA adapters.
    Loras(Vec<Adapters>),
}

/// Sequences that are decoded together.
pub(super) struct Group {
    pub(super) sequences: Vec<usize>,
    /// Which of the adapters they have.
    turn: usize,
}

impl Turns {
    pub(super) fn sets(context: &mut Context, sets: &[EditSet]) -> Result<Self, Error> {
        let loaded = sets.iter().map(|edits| context.load_edits(edits));
        Ok(Self::Sets(loaded.collect::<Result<_, _>>()?))
    }

    /// Gives `parallel` sequences what they have in this round, and says which of them are
    /// decoded together.
    pub(super) fn begin(
        &self,
        context: &mut Context,
        parallel: usize,
        round: usize,
    ) -> Result<Vec<Group>, Error> {
        let turn = |sequence: usize, n: usize| (round * parallel + sequence) % n;
        match self {
            Self::Sets(sets) => {
                for sequence in 0..parallel {
                    let edits = &sets[turn(sequence, sets.len())];
                    context.assign_edits(sequence, edits, 0..usize::MAX)?;
                }
            }
            Self::Loras(loras) => {
                let mut groups: Vec<Group> = Vec::new();
                for sequence in 0..parallel {
                    let turn = turn(sequence, loras.len());
                    match groups.iter_mut().find(|group| group.turn == turn) {
                        Some(group) => group.sequences.push(sequence),
                        None => groups.push(Group {
                            sequences: vec![sequence],
                            turn,
                        }),
                    }
                }
                return Ok(groups);
            }
            Self::None => (),
        }
        Ok(vec![Group {
            sequences: (0..parallel).collect(),
            turn: 0,
        }])
    }

    /// Switches to the adapters of a group.
    pub(super) fn apply(&self, context: &mut Context, group: &Group) -> Result<(), Error> {
        match self {
            Self::Loras(loras) => context.apply_loras(&loras[group.turn].loras),
            Self::None | Self::Sets(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_the_edit_at_different_strengths() {
        let edit = DenseEdit::new(Some(vec![1.5, 1.0]), Some(vec![0.0, -2.0])).unwrap();
        let edits = EditSet {
            layers: [(3, edit)].into(),
        };
        let found = variants(&edits, 2);
        assert_eq!(found[0], edits);
        let half = &found[1].layers[&3];
        assert_eq!(half.factor(), Some(&[1.375, 1.0][..]));
        assert_eq!(half.add(), Some(&[0.0, -1.5][..]));
    }
}
