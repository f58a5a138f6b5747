//! What differs between the architectures that the reference model covers: one row each.
//!
//! A row says what llama.cpp's loader and graph of that architecture do
//! (`src/models/<name>.cpp` of the pinned llama.cpp), as differences from `LLAMA`.

/// Which numbers of a head form the pairs that rotary embedding turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// (0, 1), (2, 3), …: ggml's "norm" order.
    Adjacent,
    /// (0, D/2), (1, D/2 + 1), …: ggml's "neox" order.
    Halves,
}

/// RMSNorm of queries and keys before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Queries and keys are not normalised.
    No,
    /// Each head by itself.
    Head,
    /// All heads of a token together.
    Token,
}

impl QkNorm {
    /// Width of the norm of `n` heads of width `head_dim`; `None` without a norm.
    pub fn width(self, n: usize, head_dim: usize) -> Option<usize> {
        match self {
            QkNorm::No => None,
            QkNorm::Head => Some(head_dim),
            QkNorm::Token => Some(n * head_dim),
        }
    }
}

/// The non-linearity of the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x)
    Silu,
    /// GELU in its tanh form
    Gelu,
}

/// Whether some layers see only the last tokens. In each group of `pattern` layers all but
/// the last do; metadata may say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Every layer sees everything; a window in the metadata is ignored, as llama.cpp does.
    No,
    /// If the metadata give a width.
    IfGiven {
        /// How many layers make a group.
        pattern: usize,
    },
    /// Always; `width` unless the metadata give another.
    Always {
        /// How many layers make a group.
        pattern: usize,
        /// The width in tokens.
        width: usize,
    },
}

/// How the layers with a window rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalRope {
    /// As the other layers, by the base `rope.freq_base_swa` where it is given.
    Global,
    /// By the base `rope.freq_base_swa`, 10000 where it is not given, without scaling.
    OwnBase,
    /// By the base of the other layers, without scaling.
    Unscaled,
}

/// Mixtures of experts in place of the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experts {
    /// Every layer has one feed-forward layer, whatever the metadata say.
    No,
    /// If `expert_count` is given; each expert is as wide as `feed_forward_length` says.
    IfGiven,
    /// Always; each expert is `expert_feed_forward_length` wide.
    Always,
}

/// An architecture that the reference model covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Pairs of rotary embedding.
    pub rope_pairs: RopePairs,
    /// Whether a part of each head may stay unrotated (`rope.dimension_count`).
    pub rope_partial: bool,
    /// Whether frequencies are divided by tensors: `rope_freqs.weight`, or
    /// `rope_factors_long.weight` and `rope_factors_short.weight`.
    pub rope_factors: bool,
    /// Every n-th layer rotates nothing.
    pub unrotated_every: Option<usize>,
    /// Whether `rope.scaling.finetuned` = false switches rotation off in all layers.
    pub rope_switch: bool,
    /// Layers that see only the last tokens.
    pub window: Window,
    /// Rotation in those layers.
    pub local_rope: LocalRope,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Norms on what attention and feed-forward layer read.
    pub pre_norm: bool,
    /// Norms on what they add to the residual stream.
    pub post_norm: bool,
    /// Non-linearity of the feed-forward layer.
    pub activation: Activation,
    /// Whether `ffn_up` holds the gate's rows too, before its own.
    pub fused_gate_up: bool,
    /// Whether it has mixtures of experts.
    pub experts: Experts,
    /// Matrices besides query, key and value that may come with a bias.
    pub biases: &'static [&'static str],
    /// Whether token embeddings are multiplied by √d.
    pub embedding_root: bool,
    /// Number of layers of the one model whose attention scale is (d/H)^(-1/2).
    pub wide_scale_layers: Option<usize>,
    /// Whether attention scores are soft-capped, by 50 unless the metadata say otherwise.
    pub score_cap: bool,
    /// Soft cap of the logits: `Some(default)` where the architecture knows one, 0 for none.
    pub logit_cap: Option<f64>,
    /// Whether the metadata hold multipliers of embeddings, residual, scores and logits.
    pub multipliers: bool,
}

impl Architecture {
    /// The scale of attention scores where the metadata give none: `width`^(-1/2), for one of
    /// the models `per_head`^(-1/2), with d/H numbers per head.
    pub fn score_scale(&self, n_layer: usize, per_head: usize, width: usize) -> f64 {
        let width = match self.wide_scale_layers == Some(n_layer) {
            true => per_head,
            false => width,
        };
        (width as f64).powf(-0.5)
    }
}

/// The llama architecture, from which the others are told.
const LLAMA: Architecture = Architecture {
    name: "llama",
    rope_pairs: RopePairs::Adjacent,
    rope_partial: false,
    rope_factors: true,
    unrotated_every: None,
    rope_switch: false,
    window: Window::No,
    local_rope: LocalRope::Global,
    qk_norm: QkNorm::No,
    pre_norm: true,
    post_norm: false,
    activation: Activation::Silu,
    fused_gate_up: false,
    experts: Experts::IfGiven,
    biases: &["attn_output", "ffn_gate", "ffn_up", "ffn_down"],
    embedding_root: false,
    wide_scale_layers: None,
    score_cap: false,
    logit_cap: None,
    multipliers: false,
};

const QWEN2: Architecture = Architecture {
    name: "qwen2",
    rope_pairs: RopePairs::Halves,
    rope_factors: false,
    experts: Experts::No,
    biases: &["output"],
    ..LLAMA
};

const QWEN3: Architecture = Architecture {
    name: "qwen3",
    qk_norm: QkNorm::Head,
    biases: &[],
    ..QWEN2
};

const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    rope_pairs: RopePairs::Halves,
    rope_partial: true,
    rope_factors: false,
    window: Window::Always {
        pattern: 2,
        width: 4096,
    },
    post_norm: true,
    activation: Activation::Gelu,
    experts: Experts::No,
    biases: &[],
    embedding_root: true,
    wide_scale_layers: Some(46),
    score_cap: true,
    logit_cap: Some(30.0),
    ..LLAMA
};

/// What can be trained. `jola_edit::architectures::TRAINABLE` holds the same names.
pub const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    QWEN2,
    QWEN3,
    Architecture {
        name: "qwen3moe",
        experts: Experts::Always,
        ..QWEN3
    },
    GEMMA2,
    Architecture {
        name: "gemma3",
        window: Window::IfGiven { pattern: 6 },
        local_rope: LocalRope::OwnBase,
        qk_norm: QkNorm::Head,
        wide_scale_layers: Some(62),
        score_cap: false,
        logit_cap: Some(0.0),
        ..GEMMA2
    },
    Architecture {
        name: "phi3",
        rope_pairs: RopePairs::Halves,
        rope_partial: true,
        fused_gate_up: true,
        experts: Experts::No,
        biases: &[],
        ..LLAMA
    },
    Architecture {
        name: "olmo2",
        rope_pairs: RopePairs::Halves,
        rope_factors: false,
        window: Window::IfGiven { pattern: 4 },
        local_rope: LocalRope::Unscaled,
        qk_norm: QkNorm::Token,
        pre_norm: false,
        post_norm: true,
        experts: Experts::No,
        biases: &[],
        ..LLAMA
    },
    Architecture {
        name: "smollm3",
        rope_factors: false,
        unrotated_every: Some(4),
        experts: Experts::No,
        biases: &[],
        ..LLAMA
    },
    Architecture {
        name: "granite",
        rope_switch: true,
        experts: Experts::No,
        multipliers: true,
        ..LLAMA
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_list_names_the_same_architectures() {
        let rows: Vec<&str> = ARCHITECTURES.iter().map(|row| row.name).collect();
        let shared = jola_edit::architectures::TRAINABLE;
        let shared: Vec<&str> = shared.iter().map(|entry| entry.name).collect();
        assert_eq!(rows, shared);
    }
}
