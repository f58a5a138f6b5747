//! From config.json to the metadata that llama.cpp's converter would write into a GGUF: the
//! same keys, so that everything after reads one kind of base.

use jola_edit::gguf::{Array, Metadata, Value};

use super::json::Object;
use super::metadata::MetadataWriter;
use super::rope;
use crate::error::{HfError, HfErrorKind};
use crate::Error;

/// `architectures` of config.json and the architecture of the GGUF made from it.
const NAMES: &[(&str, &str)] = &[
    ("LlamaForCausalLM", "llama"),
    ("MistralForCausalLM", "llama"),
    ("Qwen2ForCausalLM", "qwen2"),
    ("Qwen3ForCausalLM", "qwen3"),
    ("Qwen3MoeForCausalLM", "qwen3moe"),
    ("Gemma2ForCausalLM", "gemma2"),
    ("Gemma3ForCausalLM", "gemma3"),
    ("Phi3ForCausalLM", "phi3"),
    ("Olmo2ForCausalLM", "olmo2"),
    ("Olmo3ForCausalLM", "olmo2"),
    ("SmolLM3ForCausalLM", "smollm3"),
    ("GraniteForCausalLM", "granite"),
];

/// A config.json with the numbers that several parts need.
#[derive(Debug)]
pub(crate) struct HfConfig {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Query heads.
    pub n_head: u32,
    /// Key-value heads.
    pub n_head_kv: u32,
    /// Size of the vocabulary.
    pub n_vocab: u32,
    /// Everything as the GGUF would have it.
    pub metadata: Metadata,
    /// Tensors that the GGUF would have besides those of the file: divisors of the rotary
    /// frequencies.
    pub rope_factors: Vec<(&'static str, Vec<f32>)>,
    /// `tie_word_embeddings`, where it is said.
    pub tied: Option<bool>,
}

impl HfConfig {
    /// Translates `config`; `name` becomes `general.name`.
    pub fn new(config: &Object, name: &str) -> Result<HfConfig, Error> {
        let architecture = architecture(config)?;
        refuse(config, architecture)?;
        let mut keys = MetadataWriter::new(architecture);
        keys.general("general.architecture", architecture);
        keys.general("general.name", name);
        common(config, architecture, &mut keys)?;
        let rope_factors = rope::translate(config, architecture, &mut keys)?;
        special(config, architecture, &mut keys)?;
        let n_head = config.count("num_attention_heads")?;
        Ok(HfConfig {
            architecture,
            n_head,
            n_head_kv: config
                .optional_count("num_key_value_heads")?
                .unwrap_or(n_head),
            n_vocab: config.count("vocab_size")?,
            metadata: keys.finish(config)?,
            rope_factors,
            tied: config.flag("tie_word_embeddings")?,
        })
    }
}

fn architecture(config: &Object) -> Result<&'static str, HfError> {
    let names = config.list("architectures")?;
    let Some(found) = names.and_then(|names| names.first()?.as_str()) else {
        return Err(config.bad("architectures", "a list with the model's class"));
    };
    let row = NAMES.iter().find(|(name, _)| *name == found);
    row.map(|(_, architecture)| *architecture).ok_or_else(|| {
        let supported: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        config.error(HfErrorKind::Architecture {
            found: found.to_owned(),
            supported: supported.join(", "),
        })
    })
}

/// Refuses what the tensors would not show.
fn refuse(config: &Object, architecture: &str) -> Result<(), HfError> {
    if let Some(value) = config.get("quantization_config") {
        let what = format!("quantised weights ({value})");
        return Err(config.error(HfErrorKind::Weights { what }));
    }
    let gemma = architecture.starts_with("gemma");
    match config.text("hidden_act")? {
        Some("silu" | "swish") | None => Ok(()),
        Some(_) if gemma => Ok(()),
        Some(_) => Err(config.bad("hidden_act", "silu")),
    }
}

/// What all architectures have.
fn common(config: &Object, architecture: &str, keys: &mut MetadataWriter) -> Result<(), HfError> {
    keys.count("block_count", config.count("num_hidden_layers")?);
    keys.count("context_length", config.count("max_position_embeddings")?);
    keys.count("embedding_length", config.count("hidden_size")?);
    keys.count("feed_forward_length", config.count("intermediate_size")?);
    keys.count("attention.head_count", config.count("num_attention_heads")?);
    if let Some(heads) = config.optional_count("num_key_value_heads")? {
        keys.count("attention.head_count_kv", heads);
    }
    keys.float(
        "attention.layer_norm_rms_epsilon",
        config.float("rms_norm_eps")?,
    );
    keys.count("vocab_size", config.count("vocab_size")?);
    // The converter leaves the width of heads to the other numbers in these two.
    if !matches!(architecture, "granite" | "phi3") {
        if let Some(width) = config.optional_count("head_dim")? {
            keys.count("attention.key_length", width);
            keys.count("attention.value_length", width);
        }
    }
    Ok(())
}

/// What one architecture has.
fn special(config: &Object, architecture: &str, keys: &mut MetadataWriter) -> Result<(), HfError> {
    match architecture {
        "qwen3moe" => {
            let all = match config.optional_count("num_local_experts")? {
                None => config.count("num_experts")?,
                Some(all) => all,
            };
            keys.count("expert_count", all);
            keys.count("expert_used_count", config.count("num_experts_per_tok")?);
            let width = config.count("moe_intermediate_size")?;
            keys.count("expert_feed_forward_length", width);
        }
        "gemma2" => {
            for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
                keys.float(key, config.float(key)?);
            }
            keys.count("attention.sliding_window", config.count("sliding_window")?);
        }
        "gemma3" => {
            if let Some(cap) = config.optional_float("final_logit_softcapping")? {
                keys.float("final_logit_softcapping", cap);
            }
            if config.optional_count("sliding_window_pattern")? != Some(1) {
                keys.count("attention.sliding_window", config.count("sliding_window")?);
            }
        }
        "phi3" => {
            let window = config.optional_count("sliding_window")?;
            keys.count("attention.sliding_window", window.unwrap_or(0));
        }
        "olmo2" => {
            if let Some(window) = config.optional_count("sliding_window")? {
                keys.count("attention.sliding_window", window);
                let flags = Value::Array(Array::Bool(windowed_layers(config)?));
                keys.set("attention.sliding_window_pattern", flags);
            }
        }
        "granite" => {
            for (from, to) in [
                ("attention_multiplier", "attention.scale"),
                ("embedding_multiplier", "embedding_scale"),
                ("residual_multiplier", "residual_scale"),
                ("logits_scaling", "logit_scale"),
            ] {
                if let Some(factor) = config.optional_float(from)?.filter(|&x| x != 0.0) {
                    keys.float(to, factor);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Olmo 3: which layers see only the last tokens.
fn windowed_layers(config: &Object) -> Result<Vec<bool>, HfError> {
    match config.list("layer_types")? {
        Some(types) => Ok(types
            .iter()
            .map(|kind| kind == "sliding_attention")
            .collect()),
        None => {
            let n_layer = config.count("num_hidden_layers")?;
            Ok((1..=n_layer).map(|layer| layer % 4 != 0).collect())
        }
    }
}
