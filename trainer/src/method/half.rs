//! The two halves of an edit.

/// The two halves of an edit `z' = (1 + g_m·m) ⊙ z + g_a·a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The scale m, by which a head's output is multiplied.
    Scale,
    /// The offset a, which is added to it.
    Offset,
}

impl Half {
    /// The name used in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Half::Scale => "scale",
            Half::Offset => "offset",
        }
    }
}
