//! The one table between Hugging Face's tensors and the GGUF's: names and layout.

use crate::architectures::Architecture;
use crate::base::tensor::RowOrder;

/// Names outside of layers.
const GLOBAL: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    (OUTPUT, "output"),
];

/// The matrix from the residual stream to logits.
const OUTPUT: &str = "lm_head";

/// Names within `model.layers.N.` and `blk.N.`.
const LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
];

/// Names within `model.layers.N.mlp.experts.E.`: one matrix per expert, one for all in GGUF.
const EXPERT: &[(&str, &str)] = &[
    ("gate_proj", "ffn_gate_exps"),
    ("up_proj", "ffn_up_exps"),
    ("down_proj", "ffn_down_exps"),
];

/// What this name means depends on whether the architecture has norms behind its layers.
const AFTER_ATTENTION: &str = "post_attention_layernorm";

/// Stored numbers that nothing needs.
const LEFT_OUT: &[&str] = &[
    ".rotary_emb.inv_freq",
    ".attention.masked_bias",
    ".attention.bias",
];

/// Where a stored tensor goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// It goes nowhere.
    LeftOut,
    /// It is this tensor, or this part of it.
    Tensor {
        /// Name in the GGUF.
        name: String,
        /// Which of the experts it is for.
        expert: Option<usize>,
        /// The order that its rows are wanted in.
        order: RowOrder,
        /// Added to each number.
        plus: f32,
    },
}

/// The layout of an architecture's tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Its row of the trainer's table.
    pub architecture: &'static Architecture,
    /// Query heads.
    pub n_head: usize,
    /// Key-value heads.
    pub n_head_kv: usize,
}

impl Layout {
    /// Where tensor `stored` goes; `None` for a name that is not in the table.
    pub fn target(&self, stored: &str) -> Option<Target> {
        if LEFT_OUT.iter().any(|suffix| stored.ends_with(suffix)) {
            return Some(Target::LeftOut);
        }
        let (stem, what) = stored.rsplit_once('.')?;
        if !matches!(what, "weight" | "bias") {
            return None;
        }
        if stem == OUTPUT && !self.reads_output() {
            return Some(Target::LeftOut);
        }
        let Some((layer, inner)) = layer_of(stem) else {
            let name = look_up(GLOBAL, stem)?;
            return Some(self.tensor(stem, format!("{name}.{what}"), None));
        };
        if let Some((expert, matrix)) = expert_of(inner) {
            let name = look_up(EXPERT, matrix)?;
            let name = format!("blk.{layer}.{name}.{what}");
            return Some(self.tensor(stem, name, Some(expert)));
        }
        let name = match inner {
            AFTER_ATTENTION => self.after_attention(),
            other => look_up(LAYER, other)?,
        };
        Some(self.tensor(stem, format!("blk.{layer}.{name}.{what}"), None))
    }

    /// Whether a matrix for the output is read. Gemma 2's is its token embeddings in llama.cpp,
    /// and the converter drops whatever else some quantisers store.
    pub fn reads_output(&self) -> bool {
        self.architecture.name != "gemma2"
    }

    fn after_attention(&self) -> &'static str {
        match self.architecture.post_norm {
            true => "post_attention_norm",
            false => "ffn_norm",
        }
    }

    fn tensor(&self, stem: &str, name: String, expert: Option<usize>) -> Target {
        // Llama's relatives: Hugging Face pairs number i of a head with i + D/2, the GGUF
        // with the one beside it.
        let paired = matches!(self.architecture.name, "llama" | "smollm3" | "granite");
        let order = match stem.rsplit('.').next() {
            Some("q_proj") if paired => RowOrder::PairUp { heads: self.n_head },
            Some("k_proj") if paired => RowOrder::PairUp {
                heads: self.n_head_kv,
            },
            _ => RowOrder::Stored,
        };
        // Gemma stores norms less one.
        let less_one = self.architecture.name.starts_with("gemma") && stem.ends_with("norm");
        Target::Tensor {
            name,
            expert,
            order,
            plus: if less_one { 1.0 } else { 0.0 },
        }
    }

    /// The name under which Hugging Face stores tensor `name` of the GGUF, for messages.
    pub fn stored(&self, name: &str) -> Option<String> {
        let (stem, what) = name.rsplit_once('.')?;
        let Some((layer, inner)) = stem
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'))
        else {
            let (stored, _) = GLOBAL.iter().find(|(_, gguf)| *gguf == stem)?;
            return Some(format!("{stored}.{what}"));
        };
        let fused = |stored: &str| stored == "mlp.gate_up_proj";
        let row = |(stored, gguf): &&(&str, &str)| {
            *gguf == inner
                && fused(stored) == (self.architecture.fused_gate_up && inner == "ffn_up")
        };
        let inner = if inner == self.after_attention() {
            AFTER_ATTENTION.to_owned()
        } else if let Some((stored, _)) = EXPERT.iter().find(|(_, gguf)| *gguf == inner) {
            format!("mlp.experts.0.{stored}")
        } else {
            LAYER.iter().find(row)?.0.to_owned()
        };
        Some(format!("model.layers.{layer}.{inner}.{what}"))
    }
}

fn look_up(table: &[(&str, &'static str)], stored: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(name, _)| *name == stored)
        .map(|(_, gguf)| *gguf)
}

/// Layer and rest of `model.layers.N.rest`.
fn layer_of(stem: &str) -> Option<(usize, &str)> {
    let (layer, inner) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, inner))
}

/// Expert and matrix of `mlp.experts.E.matrix`.
fn expert_of(inner: &str) -> Option<(usize, &str)> {
    let (expert, matrix) = inner.strip_prefix("mlp.experts.")?.split_once('.')?;
    Some((expert.parse().ok()?, matrix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures::ARCHITECTURES;

    fn layout(name: &str) -> Layout {
        let architecture = ARCHITECTURES.iter().find(|row| row.name == name).unwrap();
        Layout {
            architecture,
            n_head: 4,
            n_head_kv: 2,
        }
    }

    fn target(architecture: &str, stored: &str) -> Option<(String, RowOrder, f32)> {
        match layout(architecture).target(stored)? {
            Target::LeftOut => None,
            Target::Tensor {
                name, order, plus, ..
            } => Some((name, order, plus)),
        }
    }

    #[test]
    fn layouts_differ_by_architecture() {
        let key = "model.layers.3.self_attn.k_proj.bias";
        let pairs = RowOrder::PairUp { heads: 2 };
        assert_eq!(
            target("llama", key),
            Some(("blk.3.attn_k.bias".into(), pairs, 0.0))
        );
        assert_eq!(target("qwen2", key).unwrap().1, RowOrder::Stored);
        let norm = "model.layers.0.post_attention_layernorm.weight";
        assert_eq!(target("llama", norm).unwrap().0, "blk.0.ffn_norm.weight");
        assert_eq!(
            target("olmo2", norm).unwrap().0,
            "blk.0.post_attention_norm.weight"
        );
        assert_eq!(target("gemma3", norm).unwrap().2, 1.0);
        assert_eq!(target("gemma3", "model.norm.weight").unwrap().2, 1.0);
        assert_eq!(
            target("llama", "model.layers.0.self_attn.q_proj.scales"),
            None
        );
        assert_eq!(target("llama", "vision.norm.weight"), None);
        let left_out = layout("llama").target("model.layers.0.self_attn.rotary_emb.inv_freq");
        assert_eq!(left_out, Some(Target::LeftOut));
        let output = "lm_head.weight";
        assert_eq!(layout("gemma2").target(output), Some(Target::LeftOut));
        assert_eq!(target("gemma3", output).unwrap().0, "output.weight");
    }

    #[test]
    fn names_are_found_back() {
        for (architecture, stored) in [
            ("llama", "model.embed_tokens.weight"),
            ("llama", "lm_head.weight"),
            ("llama", "model.layers.1.post_attention_layernorm.weight"),
            ("gemma2", "model.layers.1.post_attention_layernorm.weight"),
            ("gemma2", "model.layers.1.pre_feedforward_layernorm.weight"),
            ("phi3", "model.layers.1.mlp.gate_up_proj.weight"),
            ("qwen3", "model.layers.1.mlp.up_proj.weight"),
            ("qwen3moe", "model.layers.1.mlp.experts.0.up_proj.weight"),
            ("qwen3moe", "model.layers.1.mlp.gate.weight"),
        ] {
            let (gguf, _, _) = target(architecture, stored).unwrap();
            assert_eq!(layout(architecture).stored(&gguf).as_deref(), Some(stored));
        }
    }
}
