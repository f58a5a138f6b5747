//! What can be trained, and with which settings of its own.

use serde::Serialize;

use super::half::Half;
use super::lora_config::LoraConfig;

/// A method: what is trained, and how heads are chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Scale and offset, each with its own gate per head.
    Jola,
    /// Scale and offset with one gate per head for both.
    SharedGate,
    /// Offsets with a gate per head, and no scales.
    Additive,
    /// Scales with a gate per head, and no offsets.
    Multiplicative,
    /// Scale and offset of every head, without gates.
    Ungated,
    /// LoFiT (Yin, Ye, Durrett 2024): scales choose heads, then offsets are learned on them.
    Lofit {
        /// K, how many heads.
        heads: usize,
        /// λ of the L1 penalty on the scales.
        l1: f64,
    },
    /// An offset for every head of these layers.
    Layerwise {
        /// The numbers of the layers, ascending.
        layers: Vec<usize>,
    },
    /// Low-rank changes of weight matrices (Hu et al. 2021).
    Lora(LoraConfig),
}

impl Method {
    /// The name used on the command line and in files.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Jola => "jola",
            Method::SharedGate => "shared-gate",
            Method::Additive => "additive",
            Method::Multiplicative => "multiplicative",
            Method::Ungated => "ungated",
            Method::Lofit { .. } => "lofit",
            Method::Layerwise { .. } => "layerwise",
            Method::Lora(_) => "lora",
        }
    }

    /// Whether hard-concrete gates choose heads.
    pub fn gated(&self) -> bool {
        matches!(
            self,
            Method::Jola | Method::SharedGate | Method::Additive | Method::Multiplicative
        )
    }

    /// The halves that are trained.
    pub(super) fn halves(&self) -> &'static [Half] {
        match self {
            Method::Jola | Method::SharedGate | Method::Ungated | Method::Lofit { .. } => {
                &[Half::Scale, Half::Offset]
            }
            Method::Additive | Method::Layerwise { .. } => &[Half::Offset],
            Method::Multiplicative => &[Half::Scale],
            Method::Lora(_) => &[],
        }
    }
}
