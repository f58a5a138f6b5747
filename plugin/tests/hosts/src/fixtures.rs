//! What the hosts are fed: prompts, sidecars, a LoRA, broken files. All of it is seeded.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};
use jola_edit::gguf::{Gguf, GgufWriter, Metadata};
use jola_edit::sidecar::{BaseShape, HeadVectors, LayerEdit};
use jola_edit::Sidecar;
use llama_cpp_sys_2 as sys;
use serde_json::Value;
use testkit::{Lora, Random};

/// Values in the scales of the random sidecar lie in ±this: the text stays sane, and differs
/// from the unedited model's.
const SCALE: f32 = 0.6;
/// Values in its offsets lie in ±this.
const OFFSET: f32 = 0.1;
/// Rank of the random LoRA.
const LORA_RANK: u64 = 4;
/// Values of the LoRA's matrices lie in ±this: a change about as large as the sidecar's.
const LORA_SIZE: f32 = 0.1;

/// A sidecar for `base` that edits `heads` heads of every layer, scale and offset.
pub fn random_sidecar(base: &BaseShape, seed: u64, heads: u32) -> Sidecar {
    let mut random = Random::new(seed);
    let mut vectors = |chosen: &[u32], size: f32| HeadVectors {
        heads: chosen.to_vec(),
        values: (0..chosen.len() * base.head_dim as usize)
            .map(|_| size * random.signed())
            .collect(),
    };
    let mut choice = Random::new(!seed);
    let layers: BTreeMap<u32, LayerEdit> = (0..base.block_count)
        .map(|layer| {
            let all = base.head_count[layer as usize];
            let mut chosen: Vec<u32> = Vec::new();
            while chosen.len() < heads.min(all) as usize {
                let head = choice.below(all as usize) as u32;
                if !chosen.contains(&head) {
                    chosen.push(head);
                }
            }
            chosen.sort_unstable();
            let edit = LayerEdit {
                mul: Some(vectors(&chosen, SCALE)),
                add: Some(vectors(&chosen, OFFSET)),
            };
            (layer, edit)
        })
        .collect();
    base.sidecar("random", layers)
}

/// Sidecars that must be refused, by what is wrong with them.
pub fn bad_sidecars(base: &BaseShape, folder: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let good = random_sidecar(base, 7, 1);
    let mut fewer_layers = good.clone();
    fewer_layers.block_count -= 6;
    fewer_layers
        .layers
        .retain(|layer, _| *layer < base.block_count - 6);
    let mut other_architecture = good.clone();
    other_architecture.architecture = "gemma3".into();
    let path = |name: &str| folder.join(name);
    fewer_layers.write(path("fewer-layers.gguf"))?;
    other_architecture.write(path("other-architecture.gguf"))?;
    good.write(path("cut-off.gguf"))?;
    let bytes = std::fs::read(path("cut-off.gguf"))?;
    std::fs::write(path("cut-off.gguf"), &bytes[..bytes.len() / 2])?;
    std::fs::write(path("no-gguf.gguf"), "this is no GGUF file")?;
    Ok(vec![
        ("for fewer layers", path("fewer-layers.gguf")),
        ("for another architecture", path("other-architecture.gguf")),
        ("cut off", path("cut-off.gguf")),
        ("no GGUF", path("no-gguf.gguf")),
        ("missing", path("missing.gguf")),
    ])
}

/// Writes a random LoRA of every layer's output projection, as llama.cpp reads it.
pub fn write_lora(base: &BaseShape, seed: u64, path: &Path) -> Result<()> {
    // W_O is square: heads times width is the model's own width in this model, in every layer.
    let width = u64::from(base.head_count[0] * base.head_dim);
    let lora = Lora {
        architecture: &base.architecture,
        kind: "lora",
        // α/r is llama.cpp's factor on the product: 1 here.
        alpha: LORA_RANK as f32,
        rank: LORA_RANK,
        layers: base.block_count,
        targets: &[("attn_output", width, width)],
        size: LORA_SIZE,
        seed,
    };
    lora.write(path)
}

/// The model `base` (all in 32-bit floats) quantised to Q4_0 by llama.cpp, kept beside it: a
/// type that the CPU library rearranges when it loads it.
pub fn q4_0_copy(base: &Path) -> Result<PathBuf> {
    let path = base.with_extension("Q4_0.gguf");
    let modified = |path: &Path| std::fs::metadata(path)?.modified();
    if matches!((modified(&path), modified(base)), (Ok(copy), Ok(base)) if copy >= base) {
        return Ok(path);
    }
    let new = path.with_extension("new");
    let text = |path: &Path| Ok::<_, anyhow::Error>(CString::new(path.to_str().context("path")?)?);
    let (from, to) = (text(base)?, text(&new)?);
    // SAFETY: both paths are NUL-terminated and outlive the call; the parameters are
    // llama.cpp's own.
    let status = unsafe {
        let mut params = sys::llama_model_quantize_default_params();
        params.ftype = sys::LLAMA_FTYPE_MOSTLY_Q4_0;
        params.nthread = 1;
        sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params)
    };
    ensure!(status == 0, "llama_model_quantize returned {status}");
    std::fs::rename(&new, &path)?;
    Ok(path)
}

/// Writes a model of the first `layers` layers of `base`: another model with the same tokens.
pub fn write_few_layers(base: &Path, layers: u32, path: &Path) -> Result<()> {
    let file = Gguf::open(base)?;
    let block_count = format!(
        "{}.block_count",
        file.metadata().str("general.architecture")?
    );
    let mut metadata = Metadata::new();
    for (key, value) in file.metadata().iter() {
        if key == block_count {
            metadata.insert(key, layers)?;
        } else {
            metadata.insert(key, value.clone())?;
        }
    }
    let mut writer = GgufWriter::new(metadata)?;
    for tensor in file.iter() {
        let info = tensor.info;
        let layer = info.name.strip_prefix("blk.").and_then(|name| {
            let (layer, _) = name.split_once('.')?;
            layer.parse::<u32>().ok()
        });
        if layer.is_none_or(|layer| layer < layers) {
            writer.add_tensor(
                info.name.clone(),
                info.ty,
                &info.dims,
                tensor.bytes.to_vec(),
            )?;
        }
    }
    writer.write(path)?;
    Ok(())
}

/// Prompts from the example task: `short` single messages, and `long` prompts that show
/// the task with four solved messages first.
pub fn prompts(folder: &Path, short: usize, long: usize) -> Result<Vec<String>> {
    let path = folder.join("test.jsonl");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let rows: Vec<(String, String)> = text
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line)?;
            let field = |name: &str| {
                let value = row[name].as_str().map(str::to_owned);
                value.with_context(|| format!("{}: a row without {name}", path.display()))
            };
            Ok((field("prompt")?, field("completion")?))
        })
        .collect::<Result<_>>()?;
    let singles = rows.iter().take(short).map(|(prompt, _)| prompt.clone());
    let shown = rows[short..].chunks_exact(5).take(long).map(|rows| {
        let (last, first) = rows.split_last().expect("chunks of five");
        let solved: String = first
            .iter()
            .map(|(prompt, answer)| format!("{prompt}{answer}\n\n"))
            .collect();
        solved + &last.0
    });
    Ok(singles.chain(shown).collect())
}
