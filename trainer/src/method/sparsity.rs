//! How many gates a run closes.

use std::fmt;

use serde::Serialize;

use super::half::Half;

/// What a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sparsity {
    /// In stages, a dense one and sparser ones; the validation says which serves.
    #[serde(rename = "auto")]
    Path,
    /// How many gates of each kind to close.
    Target(ClosedShares),
    /// The paper's formula with this λ, raised linearly over the ramp.
    Lambda(f64),
}

impl Sparsity {
    /// Whether gates are sampled while they learn. For a target their gradient is taken in
    /// expectation, without samples.
    pub fn sampled(self) -> bool {
        matches!(self, Sparsity::Lambda(_))
    }
}

/// Shares of the gates to close, in [0, 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClosedShares {
    /// Of the scales' gates, and of those that heads have for both.
    pub scale: f64,
    /// Of the offsets' gates.
    pub offset: f64,
}

impl ClosedShares {
    /// One share for both kinds.
    pub const fn both(share: f64) -> ClosedShares {
        ClosedShares {
            scale: share,
            offset: share,
        }
    }

    /// The share of this half's gates.
    pub fn of(self, half: Half) -> f64 {
        match half {
            Half::Scale => self.scale,
            Half::Offset => self.offset,
        }
    }

    /// `part` of the way from open gates to these shares.
    pub fn part(self, part: f64) -> ClosedShares {
        ClosedShares {
            scale: self.scale * part,
            offset: self.offset * part,
        }
    }

    /// The share that stays open, mean of both kinds.
    pub fn open(self) -> f64 {
        1.0 - (self.scale + self.offset) / 2.0
    }
}

impl fmt::Display for ClosedShares {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ClosedShares { scale, offset } = self;
        match scale == offset {
            true => write!(f, "{scale}"),
            false => write!(f, "{scale},{offset}"),
        }
    }
}
