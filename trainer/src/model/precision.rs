//! In which number formats a model is stored and computes.

use tch::Kind;

/// Number formats of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Frozen matrices and their operands, but for those that make logits and choose experts.
    pub storage: Kind,
    /// Edits, residual stream, norms, attention, choice of experts, logits and loss.
    pub math: Kind,
}

impl Precision {
    /// float32 throughout.
    pub const F32: Precision = Precision {
        storage: Kind::Float,
        math: Kind::Float,
    };
    /// bfloat16 matrices and operands, float32 arithmetic around them.
    pub const BF16: Precision = Precision {
        storage: Kind::BFloat16,
        math: Kind::Float,
    };
    /// float64 throughout: for checks of gradients.
    pub const F64: Precision = Precision {
        storage: Kind::Double,
        math: Kind::Double,
    };

    /// The name used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self.storage {
            Kind::BFloat16 => "bf16",
            Kind::Double => "f64",
            _ => "f32",
        }
    }
}

/// Bytes of one number.
pub(crate) fn bytes_of(kind: Kind) -> u64 {
    kind.elt_size_in_bytes() as u64
}
