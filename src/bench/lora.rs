//! A LoRA of random numbers: the rival that users know.

use jola_edit::gguf::{Gguf, GgufErrorKind, GgufWriter, Metadata, F32};
use jola_edit::EditSet;

use super::LoraTargets;
use crate::lora::{Adapters, Lora};
use crate::model::Model;
use crate::Error;

/// A LoRA on the layers of `edits`, to be made before the contexts that use it.
///
/// # Errors
/// [`Error::Lora`].
pub fn random_lora(
    model: &Model,
    edits: &EditSet,
    rank: u32,
    targets: LoraTargets,
) -> Result<Adapters, Error> {
    Ok(random_loras(model, edits, rank, targets, 1)?.remove(0))
}

/// `n` of them, all different.
///
/// # Errors
/// [`Error::Lora`].
pub fn random_loras(
    model: &Model,
    edits: &EditSet,
    rank: u32,
    targets: LoraTargets,
    n: usize,
) -> Result<Vec<Adapters>, Error> {
    let fail = |reason: String| Error::Lora {
        path: model.path().into(),
        reason,
    };
    let base = Gguf::open(model.path()).map_err(|e| fail(e.to_string()))?;
    let folder = tempfile::tempdir().map_err(|e| fail(e.to_string()))?;
    let path = folder.path().join("random-lora.gguf");
    let lora = |seed: usize| {
        let writer = random(&base, edits, rank, targets, seed as u64 + 1);
        let writer = writer.map_err(|e| fail(e.to_string()))?;
        writer.write(&path).map_err(|e| fail(e.to_string()))?;
        Ok(Adapters {
            edits: EditSet::default(),
            loras: vec![(Lora::load(model, &path)?, 1.0)],
        })
    };
    (0..n).map(lora).collect()
}

/// Small random matrices A [rank, in] and B [out, rank] for every target.
fn random(
    base: &Gguf,
    edits: &EditSet,
    rank: u32,
    targets: LoraTargets,
    seed: u64,
) -> Result<GgufWriter<'static>, GgufErrorKind> {
    let mut metadata = Metadata::new();
    metadata.insert("general.type", "adapter")?;
    let architecture = base.metadata().str("general.architecture")?.to_owned();
    metadata.insert("general.architecture", architecture)?;
    metadata.insert("adapter.type", "lora")?;
    metadata.insert("adapter.lora.alpha", rank as f32)?;
    let mut writer = GgufWriter::new(metadata)?;
    let names: &[&str] = match targets {
        LoraTargets::Output => &["attn_output"],
        LoraTargets::Attention => &["attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"],
    };
    let mut random = fastrand::Rng::with_seed(seed);
    for layer in edits.layers.keys() {
        for name in names {
            let name = format!("blk.{layer}.{name}.weight");
            let Some(tensor) = base.tensor(&name) else {
                continue;
            };
            let [n_in, n_out, ..] = tensor.info.padded_dims();
            for (half, dims) in [("a", [n_in, rank.into()]), ("b", [rank.into(), n_out])] {
                let values = (0..dims[0] * dims[1]).map(|_| (random.f32() - 0.5) * 0.02);
                let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
                writer.add_tensor(format!("{name}.lora_{half}"), F32, &dims, bytes)?;
            }
        }
    }
    Ok(writer)
}
