//! `rope_theta`, `rope_scaling` and `rope_parameters` of config.json, as llama.cpp's
//! converter puts them into metadata and tensors.

use super::json::Object;
use super::metadata::MetadataWriter;
use crate::error::HfError;

/// A tensor of divisors of the rotary frequencies.
type Factors = (&'static str, Vec<f32>);

/// What llama.cpp and the reference model compute YaRN with; config.json may repeat it.
const YARN: &[(&str, f64)] = &[
    ("beta_fast", 32.0),
    ("beta_slow", 1.0),
    ("extrapolation_factor", 1.0),
];
/// Options of YaRN that the converter drops or that change its magnitude.
const YARN_UNKNOWN: &[&str] = &[
    "attention_factor",
    "attn_factor",
    "mscale",
    "mscale_all_dim",
];

/// Writes `rope.*`; returns the tensors that the GGUF would hold for it.
///
/// # Errors
/// Types of scaling that are not known or that llama.cpp has not for this architecture.
pub(crate) fn translate(
    config: &Object,
    architecture: &str,
    keys: &mut MetadataWriter,
) -> Result<Vec<Factors>, HfError> {
    let all = parameters(config)?;
    let both = all.get("full_attention").is_some();
    let rope = if both {
        all.object("full_attention")?
    } else {
        all.clone()
    };
    // llama.cpp reads no base for gemma2.
    if architecture != "gemma2" {
        let default = (architecture == "gemma3").then_some(1_000_000.0);
        if let Some(base) = rope.optional_float("rope_theta")?.or(default) {
            keys.float("rope.freq_base", base);
        }
    }
    if let Some(base) = all
        .object("sliding_attention")?
        .optional_float("rope_theta")?
    {
        keys.float("rope.freq_base_swa", base);
    }
    if matches!(architecture, "llama" | "smollm3" | "granite") {
        keys.count("rope.dimension_count", head_width(config, architecture)?);
    }
    if architecture == "phi3" {
        return phi3(config, &rope, keys);
    }
    let kind = rope.text("rope_type")?.unwrap_or("default");
    match kind {
        "default" => Ok(Vec::new()),
        "linear" => {
            keys.set("rope.scaling.type", "linear".into());
            keys.float("rope.scaling.factor", rope.float("factor")?);
            Ok(Vec::new())
        }
        "yarn" => {
            refuse_yarn_options(&rope)?;
            keys.set("rope.scaling.type", "yarn".into());
            keys.float("rope.scaling.factor", rope.float("factor")?);
            let original = rope.count("original_max_position_embeddings")?;
            keys.count("rope.scaling.original_context_length", original);
            Ok(Vec::new())
        }
        "llama3" if matches!(architecture, "llama" | "granite") => {
            let width = head_width(config, architecture)?;
            Ok(vec![("rope_freqs.weight", llama3(&rope, width)?)])
        }
        _ => Err(rope.bad("rope_type", &format!("one of {}", known(architecture)))),
    }
}

fn known(architecture: &str) -> &'static str {
    match architecture {
        "llama" | "granite" => "default, linear, yarn, llama3",
        "phi3" => "default, longrope",
        _ => "default, linear, yarn",
    }
}

/// All that is said about rotary embedding, in one object of the newer form.
fn parameters(config: &Object) -> Result<Object, HfError> {
    let newer = config.get("rope_parameters").is_some();
    let mut all = config.object(if newer {
        "rope_parameters"
    } else {
        "rope_scaling"
    })?;
    if all.get("full_attention").is_some() || all.get("sliding_attention").is_some() {
        return Ok(all);
    }
    if let Some(base) = config.get("rope_local_base_freq") {
        let base = serde_json::json!({ "rope_theta": base });
        all.set_default("sliding_attention", Some(base));
    }
    all.set_default("rope_type", all.get("type").cloned());
    let shared = [
        "rope_theta",
        "partial_rotary_factor",
        "original_max_position_embeddings",
    ];
    for key in shared {
        all.set_default(key, config.get(key).cloned());
    }
    Ok(all)
}

/// D as the converter reckons it for rotary embedding.
fn head_width(config: &Object, architecture: &str) -> Result<u32, HfError> {
    match config.optional_count("head_dim")? {
        Some(width) if architecture != "granite" => Ok(width),
        _ => Ok(config.count("hidden_size")? / config.count("num_attention_heads")?),
    }
}

fn refuse_yarn_options(rope: &Object) -> Result<(), HfError> {
    for (key, computed) in YARN {
        if rope
            .optional_float(key)?
            .is_some_and(|value| value != *computed)
        {
            return Err(rope.bad(key, &computed.to_string()));
        }
    }
    match YARN_UNKNOWN.iter().find(|key| rope.get(key).is_some()) {
        Some(key) => Err(rope.bad(key, "none: YaRN with this option is not known")),
        None => Ok(()),
    }
}

/// Llama 3's scaling: pairs that turn slowly are interpolated, those that turn fast are not.
fn llama3(rope: &Object, width: u32) -> Result<Vec<f32>, HfError> {
    let value = |key: &str, default: f64| -> Result<f64, HfError> {
        Ok(rope.optional_float(key)?.unwrap_or(default))
    };
    let base = value("rope_theta", 10_000.0)?;
    let factor = value("factor", 8.0)?;
    let (low, high) = (
        value("low_freq_factor", 1.0)?,
        value("high_freq_factor", 4.0)?,
    );
    let context = value("original_max_position_embeddings", 8192.0)?;
    if high <= low {
        return Err(rope.bad(
            "high_freq_factor",
            &format!("more than low_freq_factor, {low}"),
        ));
    }
    let divisor = |i: u32| {
        // In float32 as the converter does: it decides which branch the edges take.
        let exponent = (2 * i) as f32 / width as f32;
        let frequency = 1.0 / (base as f32).powf(exponent);
        let wavelength = std::f64::consts::TAU / f64::from(frequency);
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok((0..width / 2).map(|i| divisor(i) as f32).collect())
}

/// Phi-3: part of each head, and one list of divisors for short contexts, one for long.
fn phi3(
    config: &Object,
    rope: &Object,
    keys: &mut MetadataWriter,
) -> Result<Vec<Factors>, HfError> {
    let width = config.count("hidden_size")?;
    let share = rope.optional_float("partial_rotary_factor")?.unwrap_or(1.0);
    let rotated = (share * f64::from(width)) as u32 / config.count("num_attention_heads")?;
    keys.count("rope.dimension_count", rotated);
    let context = config.count("max_position_embeddings")?;
    let original = rope
        .optional_count("original_max_position_embeddings")?
        .unwrap_or(context);
    keys.count("rope.scaling.original_context_length", original);
    match rope.text("rope_type")?.unwrap_or("default") {
        "default" => return Ok(Vec::new()),
        "longrope" | "su" => {}
        _ => return Err(rope.bad("rope_type", &format!("one of {}", known("phi3")))),
    }
    let scale = f64::from(context) / f64::from(original);
    let magnitude = match scale > 1.0 {
        true => (1.0 + scale.ln() / f64::from(original).ln()).sqrt(),
        false => 1.0,
    };
    keys.float("rope.scaling.attn_factor", magnitude);
    let list = |key: &str| -> Result<Vec<f32>, HfError> {
        let expected = format!("a list of {} numbers", rotated / 2);
        let list = rope.floats(key)?.ok_or_else(|| rope.bad(key, &expected))?;
        match list.len() == rotated as usize / 2 {
            true => Ok(list),
            false => Err(rope.bad(key, &expected)),
        }
    };
    Ok(vec![
        ("rope_factors_long.weight", list("long_factor")?),
        ("rope_factors_short.weight", list("short_factor")?),
    ])
}
