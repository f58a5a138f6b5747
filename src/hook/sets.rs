//! Which edit sets are loaded, and which of them each sequence has.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jola_edit::graph::DeviceTables;
use jola_edit::EditSet;

use crate::native::ffi;

/// An edit set in a context's device memory, see [`Context::load_edits`]. Cheap to clone; its
/// memory is free for another set when no clone is left and no sequence has it.
///
/// [`Context::load_edits`]: crate::Context::load_edits
#[derive(Clone, Debug)]
pub struct LoadedEdits {
    inner: Arc<Loaded>,
}

impl PartialEq for LoadedEdits {
    /// Whether it is the same set in the memory of the same context.
    fn eq(&self, other: &Self) -> bool {
        self.row() == other.row() && self.is_of(&other.inner.registry)
    }
}

#[derive(Debug)]
struct Loaded {
    /// Row of the tables; 0 for no edit at all.
    row: usize,
    key: u64,
    registry: Arc<Registry>,
}

impl LoadedEdits {
    pub(super) fn row(&self) -> usize {
        self.inner.row
    }

    pub(super) fn is_of(&self, registry: &Arc<Registry>) -> bool {
        Arc::ptr_eq(&self.inner.registry, registry)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.row > 0 {
            let mut rows = self.registry.rows();
            rows.used.remove(&self.row);
            // The same set may have been loaded again meanwhile.
            let gone = |loaded: &Weak<Loaded>| loaded.strong_count() == 0;
            if rows.by_key.get(&self.key).is_some_and(gone) {
                rows.by_key.remove(&self.key);
            }
        }
    }
}

/// The sets that are loaded, each once.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Sets are told apart by a hash of 64 bits that nobody outside knows the key of.
    hasher: RandomState,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    by_key: HashMap<u64, Weak<Loaded>>,
    used: BTreeSet<usize>,
}

impl Registry {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sets are loaded.
    pub(super) fn len(&self) -> usize {
        self.rows().used.len()
    }

    /// A number by which equal sets are known.
    pub(super) fn key(&self, edits: &EditSet) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for (layer, edit) in &edits.layers {
            layer.hash(&mut hasher);
            for row in [edit.factor(), edit.add()] {
                let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                row.map(bits).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// The set with that key, if it is loaded.
    pub(super) fn find(&self, key: u64) -> Option<LoadedEdits> {
        let inner = self.rows().by_key.get(&key)?.upgrade()?;
        Some(LoadedEdits { inner })
    }

    /// The lowest row that no set has.
    pub(super) fn free_row(&self) -> usize {
        let rows = self.rows();
        // Both ascend: the first that differ are where the gap is.
        let gap = rows.used.iter().zip(1..).find(|(used, row)| *used != row);
        gap.map_or(rows.used.len() + 1, |(_, row)| row)
    }

    /// Says that the set with that key is in `row`.
    pub(super) fn insert(self: &Arc<Self>, key: u64, row: usize) -> LoadedEdits {
        let inner = Arc::new(Loaded {
            row,
            key,
            registry: self.clone(),
        });
        if row > 0 {
            let mut rows = self.rows();
            rows.used.insert(row);
            rows.by_key.insert(key, Arc::downgrade(&inner));
        }
        LoadedEdits { inner }
    }
}

/// `struct jola_sequence_rows`, which llama.cpp reads before each computation.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct SequenceRows {
    row: AtomicI32,
    begin: AtomicI32,
    end: AtomicI32,
}

// C++ reads three plain numbers there.
const _: () = assert!(size_of::<SequenceRows>() == size_of::<ffi::jola_sequence_rows>());

/// Each sequence with its own set: the tables that graphs look rows up in, and which row the
/// tokens of each sequence take.
#[derive(Debug)]
pub(super) struct Each {
    pub(super) tables: DeviceTables,
    pub(super) registry: Arc<Registry>,
    /// Sets that the tables have rows for.
    pub(super) capacity: usize,
    /// What sequences have that were given nothing of their own.
    pub(super) common: LoadedEdits,
    rows: Box<[SequenceRows]>,
    sequences: Vec<Assigned>,
}

/// What a sequence has: a set, at some positions.
#[derive(Clone, Debug)]
struct Assigned {
    edits: LoadedEdits,
    positions: Range<i32>,
}

impl Each {
    /// No set for any of `n_sequences`.
    pub(super) fn new(tables: DeviceTables, n_sequences: usize) -> Self {
        let registry = Arc::new(Registry::default());
        let none = Assigned {
            edits: registry.insert(0, 0),
            positions: 0..i32::MAX,
        };
        let rows = (0..n_sequences).map(|_| SequenceRows::default());
        Self {
            tables,
            registry,
            capacity: 0,
            common: none.edits.clone(),
            rows: rows.collect(),
            sequences: vec![none; n_sequences],
        }
    }

    pub(super) fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// What `jola_hook_rows` is to read.
    pub(super) fn rows(&self) -> *const ffi::jola_sequence_rows {
        self.rows.as_ptr().cast()
    }

    /// Gives `sequence` a set at some positions; returns the first where it had something else.
    pub(super) fn assign(
        &mut self,
        sequence: usize,
        edits: &LoadedEdits,
        positions: &Range<usize>,
    ) -> Option<i32> {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let new = Assigned {
            edits: edits.clone(),
            positions: number(positions.start)..number(positions.end),
        };
        let changed = self.sequences[sequence].first_difference(&new)?;
        let rows = &self.rows[sequence];
        rows.row.store(number(edits.row()), Ordering::Relaxed);
        rows.begin.store(new.positions.start, Ordering::Relaxed);
        rows.end.store(new.positions.end, Ordering::Relaxed);
        self.sequences[sequence] = new;
        Some(changed)
    }

    /// Gives sequence `to` what `from` has; returns the first position where it had something
    /// else.
    pub(super) fn copy(&mut self, from: usize, to: usize) -> Option<i32> {
        let Assigned { edits, positions } = self.sequences[from].clone();
        self.assign(
            to,
            &edits,
            &(positions.start as usize..positions.end as usize),
        )
    }

    /// Whether both sequences have the same set at the same positions.
    pub(super) fn agree(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.sequences[a], &self.sequences[b]);
        a.first_difference(b).is_none()
    }
}

impl Assigned {
    fn row_at(&self, position: i32) -> usize {
        match self.positions.contains(&position) {
            true => self.edits.row(),
            false => 0,
        }
    }

    /// The first position at which both edit differently.
    fn first_difference(&self, other: &Self) -> Option<i32> {
        // What either does changes there only.
        let ends = [&self.positions, &other.positions].map(|range| [range.start, range.end]);
        let differ = |position: &i32| self.row_at(*position) != other.row_at(*position);
        ends.into_iter().flatten().filter(differ).min()
    }
}

#[cfg(test)]
mod tests {
    use jola_edit::DenseEdit;

    use super::*;

    fn set(value: f32) -> EditSet {
        let edit = DenseEdit::new(None, Some(vec![value; 4])).unwrap();
        EditSet {
            layers: [(0, edit)].into(),
        }
    }

    #[test]
    fn sets_are_counted_and_rows_used_again() {
        let registry = Arc::new(Registry::default());
        let load = |edits: &EditSet| {
            let key = registry.key(edits);
            let found = registry.find(key);
            found.unwrap_or_else(|| registry.insert(key, registry.free_row()))
        };
        let [a, b, c] = [1.0, 2.0, 3.0].map(|value| load(&set(value)));
        assert_eq!([&a, &b, &c].map(LoadedEdits::row), [1, 2, 3]);
        let again = load(&set(2.0));
        assert_eq!((again.row(), registry.len()), (2, 3));
        drop(b);
        assert_eq!(registry.len(), 3);
        drop(again);
        assert_eq!(registry.len(), 2);
        assert!(registry.find(registry.key(&set(2.0))).is_none());
        assert_eq!(load(&set(4.0)).row(), 2);
        drop((a, c));
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn the_first_position_that_is_edited_otherwise() {
        let registry = Arc::new(Registry::default());
        let rows = [0, 1, 2].map(|row| registry.insert(row as u64, row));
        let assigned = |row: usize, positions| Assigned {
            edits: rows[row].clone(),
            positions,
        };
        const END: i32 = i32::MAX;
        for (a, b, first) in [
            (assigned(0, 0..END), assigned(0, 3..5), None),
            (assigned(1, 0..END), assigned(1, 0..END), None),
            (assigned(1, 0..END), assigned(2, 0..END), Some(0)),
            (assigned(0, 0..END), assigned(1, 7..END), Some(7)),
            (assigned(1, 0..8), assigned(1, 0..5), Some(5)),
            (assigned(1, 4..END), assigned(1, 9..END), Some(4)),
            (assigned(1, 4..6), assigned(2, 6..9), Some(4)),
            (assigned(1, 5..5), assigned(2, 3..3), None),
            (assigned(1, 5..5), assigned(1, 0..2), Some(0)),
        ] {
            assert_eq!(a.first_difference(&b), first, "{a:?} {b:?}");
            assert_eq!(b.first_difference(&a), first, "{a:?} {b:?}");
        }
    }

    #[test]
    fn rows_differ_in_layer_part_and_value() {
        let registry = Registry::default();
        let row = || Some(vec![1.0; 4]);
        let sets = [
            (0, DenseEdit::new(row(), None)),
            (0, DenseEdit::new(None, row())),
            (0, DenseEdit::new(row(), row())),
            (1, DenseEdit::new(row(), None)),
            (0, DenseEdit::new(Some(vec![1.0; 3]), None)),
            (0, DenseEdit::new(None, Some(vec![0.0; 4]))),
            (0, DenseEdit::new(None, Some(vec![-0.0; 4]))),
        ];
        let keys = sets.map(|(layer, edit)| {
            registry.key(&EditSet {
                layers: [(layer, edit.unwrap())].into(),
            })
        });
        assert_eq!(BTreeSet::from(keys).len(), keys.len());
    }
}
