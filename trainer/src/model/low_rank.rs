//! Low-rank changes of frozen matrices as a layer applies them: W' = W + α/r·B·A.
//!
//! Matrices that the model has joined get their parts of the change: B·A of a part is added
//! to its rows.

use tch::Tensor;

/// The matrices of a layer as the model holds them: those that read the same input are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinedMatrix {
    /// Queries, keys and values.
    QueryKeyValue,
    /// The matrix behind the heads, W_O.
    Output,
    /// Gate and up matrix of the feed-forward layer.
    GateUp,
    /// Down matrix of the feed-forward layer.
    Down,
}

/// The change of a joined matrix, or of a part of it.
#[derive(Debug)]
pub struct LowRank {
    /// First of its rows in the joined matrix.
    pub start: i64,
    /// A [r, in]
    pub a: Tensor,
    /// B [out, r]
    pub b: Tensor,
    /// α/r, times the user's strength
    pub factor: f64,
}

/// The changes in one layer.
#[derive(Debug, Default)]
pub struct LowRankChanges {
    changes: [Vec<LowRank>; 4],
}

impl LowRankChanges {
    /// The changes of a joined matrix.
    pub fn of(&self, matrix: JoinedMatrix) -> &[LowRank] {
        &self.changes[matrix as usize]
    }

    /// The factors of all changes, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.changes.iter().flatten().flat_map(|c| [&c.a, &c.b])
    }

    /// The same changes with other factors.
    pub fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> LowRankChanges {
        let changed = |change: &LowRank| LowRank {
            a: f(&change.a),
            b: f(&change.b),
            ..*change
        };
        LowRankChanges {
            changes: [0, 1, 2, 3].map(|i| self.changes[i].iter().map(changed).collect()),
        }
    }

    /// Adds a change of a joined matrix.
    pub fn push(&mut self, matrix: JoinedMatrix, change: LowRank) {
        self.changes[matrix as usize].push(change);
    }
}

impl LowRank {
    /// Adds the change's part of the output to `y` [T, joined out] for input `x` [T, in], in
    /// their number format.
    pub fn add_to(&self, y: &Tensor, x: &Tensor) {
        let kind = x.kind();
        let there = |factor: &Tensor| factor.to_device(x.device()).to_kind(kind);
        let inner = x.linear::<&Tensor>(&there(&self.a), None) * self.factor; // [T, r]
        let delta = inner.linear::<&Tensor>(&there(&self.b), None); // [T, out]
        let _ = y.narrow(-1, self.start, delta.size()[1]).g_add_(&delta);
    }
}
