//! What llama.cpp does between the head outputs and the output projection W_O, by architecture.
//!
//! Read from the model loaders and graph builders of the pinned llama.cpp (the files of `src/models`):
//! a bias is of use only where the loader creates `LLM_TENSOR_ATTN_OUT, "bias"` **and** the graph
//! hands `wo_b` to `build_attn`. llada, ernie4_5, falcon-h1 and refact create it and pass NULL:
//! such a file loads, and the bias is silently ignored. A test compares this table with the
//! source.

use std::fmt;

/// What stands between the head outputs and W_O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Nothing: `build_attn` multiplies by W_O itself.
    Nothing,
    /// A factor for each value or head, made from the layer's input: it commutes with scales,
    /// but not with offsets.
    Gate,
    /// A normalisation over all heads: it commutes with neither.
    Norm,
}

/// What llama.cpp does in one architecture, as far as baking depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// What stands between the head outputs and W_O.
    pub between: Between,
    /// Whether llama.cpp adds `blk.N.attn_output.bias`.
    pub bias: bool,
}

/// What of an edit a plain GGUF of an architecture can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Bakeable {
    /// Scales, as columns of W_O.
    pub scales: bool,
    /// Offsets, as a bias.
    pub offsets: bool,
}

impl Architecture {
    /// What of an edit fits a plain GGUF.
    pub fn bakeable(&self) -> Bakeable {
        Bakeable {
            scales: self.between != Between::Norm,
            offsets: self.between == Between::Nothing && self.bias,
        }
    }

    /// Why offsets do not fit, if they do not.
    pub fn offset_obstacle(&self) -> Option<Obstacle> {
        match self.between {
            Between::Nothing if self.bias => None,
            Between::Nothing => Some(Obstacle::NoBias),
            Between::Gate => Some(Obstacle::Gate),
            Between::Norm => Some(Obstacle::Norm),
        }
    }

    /// Why scales do not fit, if they do not.
    pub fn scale_obstacle(&self) -> Option<Obstacle> {
        (self.between == Between::Norm).then_some(Obstacle::Norm)
    }
}

/// Why a part of an edit cannot become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// llama.cpp adds no bias.
    NoBias,
    /// See [`Between::Gate`].
    Gate,
    /// See [`Between::Norm`].
    Norm,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBias => "llama.cpp adds no attn_output.bias there",
            Self::Gate => "a gate multiplies the head outputs before the output projection",
            Self::Norm => "the head outputs are normalised before the output projection",
        })
    }
}

/// The entry of an architecture, `None` for one that has not been looked at or does not fit
/// (encoders, drafts, recurrent models, several output projections in one layer).
pub fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|entry| entry.name == name)
}

const fn biased(name: &'static str) -> Architecture {
    Architecture {
        name,
        between: Between::Nothing,
        bias: true,
    }
}

const fn plain(name: &'static str) -> Architecture {
    Architecture {
        name,
        between: Between::Nothing,
        bias: false,
    }
}

const fn gated(name: &'static str) -> Architecture {
    Architecture {
        name,
        between: Between::Gate,
        bias: false,
    }
}

/// Every architecture that has been looked at.
pub const ARCHITECTURES: &[Architecture] = &[
    // The loader creates the bias and the graph adds it.
    biased("apertus"),
    biased("bloom"),
    biased("codeshell"),
    biased("deci"),
    biased("gpt-oss"),
    biased("gpt2"),
    biased("gptneox"),
    biased("granite"),
    biased("granite_swa"),
    biased("granitehybrid"),
    biased("granitemoe"),
    biased("jais"),
    biased("jais2"),
    biased("llama"),
    biased("minicpm"),
    biased("mistral3"),
    biased("mpt"),
    biased("nemotron"),
    biased("nemotron_h"),
    biased("nemotron_h_moe"),
    biased("paddleocr"),
    biased("pangu-embedded"),
    biased("phi2"),
    biased("phimoe"),
    biased("starcoder"),
    biased("starcoder2"),
    // The loader creates no bias, or the graph does not add it.
    plain("arcee"),
    plain("arctic"),
    plain("baichuan"),
    plain("bailingmoe"),
    plain("bailingmoe2"),
    plain("chameleon"),
    plain("chatglm"),
    plain("cohere2"),
    plain("cohere2moe"),
    plain("command-r"),
    plain("dbrx"),
    plain("deepseek"),
    plain("deepseek2"),
    plain("deepseek2-ocr"),
    plain("deepseek32"),
    plain("dots1"),
    plain("dream"),
    plain("ernie4_5"),
    plain("ernie4_5-moe"),
    plain("exaone"),
    plain("exaone-moe"),
    plain("exaone4"),
    plain("falcon"),
    plain("falcon-h1"),
    plain("gemma"),
    plain("gemma2"),
    plain("gemma3"),
    plain("gemma3n"),
    plain("gemma4"),
    plain("glm-dsa"),
    plain("glm4"),
    plain("glm4moe"),
    plain("grok"),
    plain("grovemoe"),
    plain("hunyuan-dense"),
    plain("hunyuan-moe"),
    plain("hunyuan_vl"),
    plain("hy_v3"),
    plain("internlm2"),
    plain("jamba"),
    plain("kimi-linear"),
    plain("lfm2"),
    plain("lfm2moe"),
    plain("llada"),
    plain("llada-moe"),
    plain("llama4"),
    plain("maincoder"),
    plain("maple"),
    plain("mellum"),
    plain("mimo2"),
    plain("minicpm3"),
    plain("minimax-m2"),
    plain("mistral4"),
    plain("nanbeige"),
    plain("olmo"),
    plain("olmo2"),
    plain("olmoe"),
    plain("openelm"),
    plain("orion"),
    plain("phi3"),
    plain("plamo"),
    plain("plamo2"),
    plain("plamo3"),
    plain("plm"),
    plain("qwen"),
    plain("qwen2"),
    plain("qwen2moe"),
    plain("qwen2vl"),
    plain("qwen3"),
    plain("qwen3moe"),
    plain("qwen3vl"),
    plain("qwen3vlmoe"),
    plain("refact"),
    plain("rnd1"),
    plain("seed_oss"),
    plain("smallthinker"),
    plain("smollm3"),
    plain("stablelm"),
    plain("talkie"),
    plain("xverse"),
    // `build_attn` is called without W_O; sigmoid or softplus of a projection of the layer's
    // input multiplies its result, then W_O follows.
    gated("afmoe"),
    gated("dots3note"),
    gated("hy_v4"),
    gated("laguna"),
    gated("muse-glimmer"),
    gated("qwen35"),
    gated("qwen35moe"),
    gated("qwen3next"),
    gated("spark2_5"),
    gated("step35"),
    // RMSNorm (`attn_sub_norm`) over the concatenated heads.
    Architecture {
        name: "bitnet",
        between: Between::Norm,
        bias: false,
    },
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Loaders or graphs taken over from another file of `src/models`.
    const BORROWED: [(&str, &str, &str); 14] = [
        ("deepseek2-ocr", "deepseek2ocr", "deepseek2"),
        ("ernie4_5-moe", "ernie4-5", "ernie4-5-moe"),
        ("glm4moe", "glm4-moe", "glm4-moe"),
        ("gpt-oss", "openai-moe", "openai-moe"),
        ("granitehybrid", "granite-hybrid", "granite-hybrid"),
        ("granitemoe", "granite-moe", "granite"),
        ("hunyuan-dense", "hunyuan-vl", "hunyuan-vl"),
        ("lfm2moe", "lfm2moe", "lfm2"),
        ("minicpm", "minicpm", "granite"),
        ("mistral4", "deepseek2", "deepseek2"),
        ("nemotron_h_moe", "nemotron-h", "nemotron-h-moe"),
        ("paddleocr", "ernie4-5", "paddleocr"),
        ("pangu-embedded", "pangu-embed", "pangu-embed"),
        ("phimoe", "phimoe", "phi3"),
    ];

    /// The text of a model's source file without white space.
    fn source(name: &str) -> String {
        let models = Path::new(env!("LLAMA_CPP_SOURCE")).join("src/models");
        let path = models.join(format!("{name}.cpp"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        text.split_whitespace().collect()
    }

    #[test]
    fn the_table_says_what_the_source_does() {
        for entry in ARCHITECTURES {
            let own = entry.name.replace('_', "-");
            let borrowed = BORROWED.iter().find(|(name, ..)| *name == entry.name);
            let (loader, graph) = match borrowed {
                Some((_, loader, graph)) => (source(loader), source(graph)),
                None => (source(&own), source(&own)),
            };
            let creates = loader.contains("LLM_TENSOR_ATTN_OUT,\"bias\"");
            let adds = [
                "model.layers[il].wo,model.layers[il].wo_b",
                "layer.wo,layer.wo_b",
            ]
            .iter()
            .any(|call| graph.contains(call));
            let name = entry.name;
            assert_eq!(entry.bias, creates && adds, "{name}: {creates} {adds}");
            let deferred = [
                "model.layers[il].wo,cur",
                "model.layers[il].wo,attn_out",
                "layer.wo,attn)",
            ]
            .iter()
            .any(|product| graph.contains(&format!("build_lora_mm({product}")));
            // deci multiplies its linear layers, which have no heads, by W_O itself.
            let apart = entry.between != Between::Nothing;
            assert_eq!(apart, deferred && name != "deci", "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        for (index, entry) in ARCHITECTURES.iter().enumerate() {
            let found = ARCHITECTURES
                .iter()
                .position(|other| other.name == entry.name);
            assert_eq!(found, Some(index), "{}", entry.name);
        }
    }
}
