//! What the trainer must know about a base model, read from metadata as GGUF has them.
//!
//! Keys that are absent get llama.cpp's defaults; what the reference model would compute
//! differently from llama.cpp is refused.

use jola_edit::Folded;

use super::keys::{all_but_last, Keys};
use super::rope::Rope;
use crate::architectures::{Architecture, Experts, LocalRope, RopePairs, Window, ARCHITECTURES};
use crate::base::Base;
use crate::Error;

/// Hyper-parameters of a base model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What is special about its architecture.
    pub architecture: &'static Architecture,
    /// L, layers of the model.
    pub n_layer: usize,
    /// d, width of the residual stream.
    pub n_embd: usize,
    /// H, query heads per layer.
    pub n_head: usize,
    /// K, key-value heads per layer; H is a multiple of it.
    pub n_head_kv: usize,
    /// D, width of one head.
    pub head_dim: usize,
    /// F, width of the feed-forward layer, or of one expert.
    pub n_ff: usize,
    /// Mixture of experts in place of the feed-forward layer.
    pub experts: Option<ExpertCount>,
    /// V, size of the vocabulary.
    pub n_vocab: usize,
    /// Longest sequence that the base was trained for, in tokens.
    pub n_context: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_eps: f64,
    /// How each layer rotates and how far it looks back.
    pub layers: Vec<LayerConfig>,
    /// Tokens that a layer with a window sees, its own included; 0 without such layers.
    pub window: usize,
    /// Pairs of rotary embedding.
    pub rope_pairs: RopePairs,
    /// Rotation in most layers.
    pub rope: Rope,
    /// Rotation in layers with a window.
    pub local_rope: Rope,
    /// Attention scores are products of queries and keys times this.
    pub score_scale: f64,
    /// Scores s become cap·tanh(s/cap).
    pub score_cap: Option<f64>,
    /// Token embeddings are multiplied by this.
    pub embedding_scale: f64,
    /// What attention and feed-forward layer add is multiplied by this.
    pub residual_scale: f64,
    /// Logits are multiplied by this.
    pub logit_scale: f64,
    /// Logits y become cap·tanh(y/cap).
    pub logit_cap: Option<f64>,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Whether it sees only the last [`Config::window`] tokens, and rotates by
    /// [`Config::local_rope`].
    pub local: bool,
    /// Whether it rotates at all.
    pub rotated: bool,
}

/// Size of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertCount {
    /// E, experts per layer.
    pub all: usize,
    /// Experts that compute for one token.
    pub used: usize,
}

impl Config {
    /// Reads and checks the metadata of a base model.
    ///
    /// # Errors
    /// [`Error::Architecture`] for one that is not in [`ARCHITECTURES`], [`Error::Base`] for
    /// what the reference model would compute differently from llama.cpp, and
    /// [`Error::Gguf`] for missing or ill-typed keys.
    pub fn read(base: &dyn Base) -> Result<Config, Error> {
        let keys = Keys::new(base)?;
        let find = |row: &&Architecture| row.name == keys.architecture;
        let Some(architecture) = ARCHITECTURES.iter().find(find) else {
            return Err(Error::Architecture {
                path: base.path().to_path_buf(),
                found: keys.architecture.to_owned(),
            });
        };
        refuse_unknown(&keys, architecture)?;
        let n_layer = keys.count("block_count")?;
        let n_embd = keys.count("embedding_length")?;
        let n_head = keys.count("attention.head_count")?;
        let head_dim = keys.count_or("attention.key_length", n_embd / n_head)?;
        let n_context = keys.count("context_length")?;
        let rope_dim = keys.count_or("rope.dimension_count", head_dim)?;
        let rope = Rope::read(&keys, rope_dim, n_context)?;
        let (window, local) = windows(&keys, architecture, n_layer)?;
        let experts = experts(&keys, architecture)?;
        let factor = |name| -> Result<f64, Error> { multiplier(&keys, architecture, name) };
        let config = Config {
            architecture,
            n_layer,
            n_embd,
            n_head,
            n_head_kv: keys.count_or("attention.head_count_kv", n_head)?,
            head_dim,
            n_ff: feed_forward(&keys, architecture, experts)?,
            experts,
            n_vocab: keys.vocabulary()?,
            n_context,
            rms_eps: keys.float("attention.layer_norm_rms_epsilon")?,
            layers: layers(&keys, architecture, &local)?,
            window,
            rope_pairs: architecture.rope_pairs,
            rope,
            local_rope: local_rope(&keys, architecture, rope)?,
            score_scale: match factor("attention.scale")? {
                0.0 => architecture.score_scale(n_layer, n_embd / n_head, head_dim),
                given => given,
            },
            score_cap: match architecture.score_cap {
                true => Some(keys.float_or("attn_logit_softcapping", 50.0)?),
                false => None,
            },
            embedding_scale: match factor("embedding_scale")? {
                0.0 if architecture.embedding_root => (n_embd as f64).sqrt(),
                0.0 => 1.0,
                given => given,
            },
            residual_scale: match factor("residual_scale")? {
                0.0 => 1.0,
                given => given,
            },
            logit_scale: match architecture.multipliers {
                true => 1.0 / keys.float("logit_scale")?,
                false => 1.0,
            },
            logit_cap: logit_cap(&keys, architecture)?,
        };
        config.check(&keys)?;
        Ok(config)
    }

    /// Refuses shapes that the reference model does not compute.
    fn check(&self, keys: &Keys) -> Result<(), Error> {
        let head_dim = self.head_dim;
        let partial = self.rope.dim != head_dim;
        let value_dim = keys.count_or("attention.value_length", head_dim)?;
        let refusals = [
            (
                !self.n_head.is_multiple_of(self.n_head_kv),
                "query heads that are not a multiple of key-value heads",
            ),
            (value_dim != head_dim, "values of another width than keys"),
            (
                partial && !self.architecture.rope_partial,
                "rotary embedding of a part of the head in this architecture",
            ),
            (
                !self.rope.dim.is_multiple_of(2) || self.rope.dim > head_dim,
                "rotary embedding of this width",
            ),
        ];
        match refusals.iter().find(|(refuse, _)| *refuse) {
            Some((_, what)) => Err(keys.refuse(what)),
            None => Ok(()),
        }
    }
}

/// Refuses what llama.cpp would compute and no row of the table says.
fn refuse_unknown(keys: &Keys, architecture: &Architecture) -> Result<(), Error> {
    let positive = |name: &str| -> Result<bool, Error> {
        Ok(keys.optional_count(name)?.is_some_and(|count| count > 0))
    };
    let own_widths = keys.has("attention.key_length_swa") || keys.has("rope.dimension_count_swa");
    let experts = positive("expert_count")? && architecture.experts == Experts::No;
    let folded = Folded::refuse(|key| keys.has_whole(key)).is_err();
    let refusals = [
        (
            folded,
            "weights that are folded with a Hadamard transform (`prism.hadamard.version`)",
        ),
        (
            keys.flag("attention.causal")? == Some(false),
            "attention to later tokens",
        ),
        (experts, "a mixture of experts in this architecture"),
        (positive("expert_group_count")?, "groups of experts"),
        (
            positive("expert_shared_feed_forward_length")?,
            "shared experts",
        ),
        (
            positive("nextn_predict_layers")?,
            "layers that predict several tokens",
        ),
        (own_widths, "head widths that differ between layers"),
        (keys.has("deepstack_mapping"), "image layers"),
    ];
    match refusals.iter().find(|(refuse, _)| *refuse) {
        Some((_, what)) => Err(keys.refuse(what)),
        None => Ok(()),
    }
}

/// Width of the window (0 without) and whether each layer has it.
fn windows(
    keys: &Keys,
    architecture: &Architecture,
    n_layer: usize,
) -> Result<(usize, Vec<bool>), Error> {
    let given = keys.optional_count("attention.sliding_window")?;
    let (width, pattern) = match architecture.window {
        Window::No => (0, 0),
        Window::IfGiven { pattern } => (given.unwrap_or(0), pattern),
        Window::Always { pattern, width } => (given.unwrap_or(width), pattern),
    };
    if width == 0 {
        return Ok((0, vec![false; n_layer]));
    }
    let own = keys.layer_flags("attention.sliding_window_pattern", n_layer)?;
    Ok((width, own.unwrap_or_else(|| all_but_last(pattern, n_layer))))
}

fn layers(
    keys: &Keys,
    architecture: &Architecture,
    local: &[bool],
) -> Result<Vec<LayerConfig>, Error> {
    let off = architecture.rope_switch && keys.flag("rope.scaling.finetuned")? == Some(false);
    let rotated = |l: usize| match architecture.unrotated_every {
        _ if off => false,
        Some(every) => !(l + 1).is_multiple_of(every),
        None => true,
    };
    let layer = |(l, &local): (usize, &bool)| LayerConfig {
        local,
        rotated: rotated(l),
    };
    Ok(local.iter().enumerate().map(layer).collect())
}

fn local_rope(keys: &Keys, architecture: &Architecture, rope: Rope) -> Result<Rope, Error> {
    let base = |default| keys.float_or("rope.freq_base_swa", default);
    Ok(match architecture.local_rope {
        LocalRope::Global => Rope {
            base: base(rope.base)?,
            ..rope
        },
        LocalRope::OwnBase => Rope {
            base: base(10_000.0)?,
            scale: 1.0,
            ..rope
        },
        LocalRope::Unscaled => Rope {
            scale: 1.0,
            yarn: false,
            attention_factor: 1.0,
            ..rope
        },
    })
}

fn experts(keys: &Keys, architecture: &Architecture) -> Result<Option<ExpertCount>, Error> {
    let all = match architecture.experts {
        Experts::No => None,
        Experts::IfGiven => keys.optional_count("expert_count")?,
        Experts::Always => Some(keys.count("expert_count")?),
    };
    match all {
        None | Some(0) => Ok(None),
        Some(all) => {
            let used = keys.count("expert_used_count")?;
            if used > all {
                return Err(keys.refuse("more experts per token than there are"));
            }
            Ok(Some(ExpertCount { all, used }))
        }
    }
}

/// F, of the feed-forward layer or of one expert.
fn feed_forward(
    keys: &Keys,
    architecture: &Architecture,
    experts: Option<ExpertCount>,
) -> Result<usize, Error> {
    match experts {
        Some(experts) if architecture.experts == Experts::Always => {
            match keys.optional_count("expert_feed_forward_length")? {
                None | Some(0) => Ok(keys.count("feed_forward_length")? / experts.used),
                Some(width) => Ok(width),
            }
        }
        _ => keys.count("feed_forward_length"),
    }
}

/// A multiplier where the architecture has them, 0 where it is not given.
fn multiplier(keys: &Keys, architecture: &Architecture, name: &str) -> Result<f64, Error> {
    if architecture.multipliers {
        Ok(keys.optional_float(name)?.unwrap_or(0.0))
    } else {
        Ok(0.0)
    }
}

fn logit_cap(keys: &Keys, architecture: &Architecture) -> Result<Option<f64>, Error> {
    let Some(default) = architecture.logit_cap else {
        return Ok(None);
    };
    let cap = keys.optional_float("final_logit_softcapping")?;
    Ok(Some(cap.unwrap_or(default)).filter(|cap| *cap > 0.0))
}
