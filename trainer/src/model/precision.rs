//! In which number formats a model is stored and computes.

use tch::Kind;

/// Number formats of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Frozen matrices and their operands, but for those that make logits and choose experts.
    pub storage: Kind,
    /// Edits, residual stream, norms, rotation, choice of experts, logits and loss.
    pub math: Kind,
    /// Queries, keys and values where they meet.
    pub attention: Kind,
    /// Whether matrices stay in the file's blocks, where their format can, and are dequantised
    /// when they are used.
    pub blocks: bool,
}

impl Precision {
    /// float32 throughout.
    pub const F32: Precision = Precision {
        storage: Kind::Float,
        math: Kind::Float,
        attention: Kind::Float,
        blocks: false,
    };
    /// bfloat16 matrices and operands, float32 arithmetic around them.
    pub const BF16: Precision = Precision {
        storage: Kind::BFloat16,
        math: Kind::Float,
        attention: Kind::Float,
        blocks: false,
    };
    /// float16 matrices and operands, float32 arithmetic around them.
    pub const F16: Precision = Precision {
        storage: Kind::Half,
        math: Kind::Float,
        attention: Kind::Float,
        blocks: false,
    };
    /// float64 throughout: for checks of gradients.
    pub const F64: Precision = Precision {
        storage: Kind::Double,
        math: Kind::Double,
        attention: Kind::Double,
        blocks: false,
    };

    /// The same with attention in the format of storage, which GPUs compute in one kernel. The
    /// backward pass of attention on CPUs is three times slower in bfloat16, and a small part of
    /// the work.
    pub fn fused(self) -> Precision {
        Precision {
            attention: self.storage,
            ..self
        }
    }

    /// The same with matrices that stay in the file's blocks.
    pub fn in_blocks(self) -> Precision {
        Precision {
            blocks: true,
            ..self
        }
    }

    /// The name used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self.storage {
            Kind::BFloat16 => "bf16",
            Kind::Half => "f16",
            Kind::Double => "f64",
            _ => "f32",
        }
    }
}

/// Bytes of one number.
pub(crate) fn bytes_of(kind: Kind) -> u64 {
    kind.elt_size_in_bytes() as u64
}
