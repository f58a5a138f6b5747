//! LoRA adapters as files in llama.cpp's format, which its `--lora` loads.
//!
//! A target `blk.{l}.attn_q.weight` [out, in] has two tensors, `….lora_a` [r, in] and
//! `….lora_b` [out, r]. Weights, and with them the factors, are in the order that the GGUF
//! base stores, so nothing is permuted.

use std::path::Path;

use jola_edit::gguf::{Gguf, GgufErrorKind, GgufWriter, Metadata, Role, F32};
use jola_edit::{GgufError, Output};
use llama_jola::ggml;
use tch::{Kind, Tensor};

use super::lora::Lora;
use super::provenance::Provenance;
use crate::model::{adaptable_matrices, AdaptableMatrix, LayerChange, LowRank, Model};
use crate::Error;

const GENERAL_TYPE: &str = "general.type";
const ARCHITECTURE: &str = "general.architecture";
const ADAPTER_TYPE: &str = "adapter.type";
const ALPHA: &str = "adapter.lora.alpha";

/// Writes a trained adapter for a base of `architecture`.
///
/// # Errors
/// Those of the file system.
pub fn write(
    lora: &Lora,
    architecture: &str,
    provenance: &Provenance,
    output: &Output,
) -> Result<(), Error> {
    let writer = writer(lora, architecture, provenance);
    let writer = writer.map_err(|kind| GgufError::new(output.path(), kind))?;
    Ok(writer.write_output(output)?)
}

fn writer(
    lora: &Lora,
    architecture: &str,
    provenance: &Provenance,
) -> Result<GgufWriter<'static>, GgufErrorKind> {
    let mut metadata = Metadata::new();
    metadata.insert(GENERAL_TYPE, "adapter")?;
    metadata.insert(ARCHITECTURE, architecture)?;
    metadata.insert("general.name", provenance.name.as_str())?;
    let base = provenance.base_model_name.as_str();
    metadata.insert("general.base_model.count", 1u32)?;
    metadata.insert("general.base_model.0.name", base)?;
    metadata.insert(ADAPTER_TYPE, "lora")?;
    metadata.insert(ALPHA, lora.config.alpha as f32)?;
    metadata.insert("jola.method", "lora")?;
    if let Some(digest) = &provenance.base_sha256 {
        metadata.insert("jola.base.sha256", digest.as_str())?;
    }
    for (key, value) in provenance.train.iter() {
        metadata.insert(format!("jola.train.{key}"), value.clone())?;
    }
    let mut writer = GgufWriter::new(metadata)?;
    for target in &lora.targets {
        for layer in 0..target.a.size()[0] {
            for (factor, stacked) in [("a", &target.a), ("b", &target.b)] {
                let matrix = stacked.detach().get(layer);
                let (rows, columns) = matrix.size2().expect("a matrix");
                let flat = matrix.to_kind(Kind::Float).flatten(0, -1);
                let values = Vec::<f32>::try_from(flat).expect("float32 numbers");
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                let name = format!("blk.{layer}.{}.weight.lora_{factor}", target.name);
                writer.add_tensor(name, F32, &[columns as u64, rows as u64], bytes)?;
            }
        }
    }
    Ok(writer)
}

/// Reads an adapter and adds it, times the user's `strength`, to what `model` of `architecture`
/// applies.
///
/// # Errors
/// [`Error::LoraFile`] for a file that is no LoRA adapter, is for another base, or changes
/// what the reference model does not adapt.
pub fn add_to(
    changes: &mut [LayerChange],
    path: &Path,
    strength: f64,
    model: &Model,
    architecture: &str,
) -> Result<(), Error> {
    let file = Gguf::open(path)?;
    file.expect(Role::Lora)?;
    let added = check_kind(&file, architecture);
    let added = added.and_then(|()| add_matrices(changes, &file, strength, model));
    added.map_err(|reason| Error::LoraFile {
        path: path.to_path_buf(),
        reason,
    })
}

/// Refuses what is no LoRA adapter for this architecture.
fn check_kind(file: &Gguf, architecture: &str) -> Result<(), String> {
    let text = |key: &str| file.metadata().get(key).and_then(|value| value.as_str());
    for (key, expected) in [
        (GENERAL_TYPE, "adapter"),
        (ADAPTER_TYPE, "lora"),
        (ARCHITECTURE, architecture),
    ] {
        let found = text(key).unwrap_or("missing");
        if found != expected {
            return Err(format!("{key} is {found}, expected {expected}"));
        }
    }
    Ok(())
}

/// Adds the low-rank change of every matrix that the file has one for.
fn add_matrices(
    changes: &mut [LayerChange],
    file: &Gguf,
    strength: f64,
    model: &Model,
) -> Result<(), String> {
    let alpha = file.metadata().get(ALPHA).and_then(|value| value.as_f64());
    let mut used = 0;
    for (l, (layer, change)) in model.layers.iter().zip(changes).enumerate() {
        for target in adaptable_matrices(layer) {
            let name = format!("blk.{l}.{}.weight.lora_", target.name);
            let Some((a, b)) = factors(file, &name, &target, model)? else {
                continue;
            };
            used += 2;
            // As llama.cpp reads it: without α the product is added as it stands.
            let own = match alpha {
                Some(alpha) if alpha != 0.0 => alpha / a.size()[0] as f64,
                _ => 1.0,
            };
            let low_rank = LowRank {
                start: target.start,
                a,
                b,
                factor: strength * own,
            };
            change.matrices.push(target.matrix, low_rank);
        }
    }
    let n_tensors = file.tensors().len();
    if used != n_tensors {
        return Err(format!(
            "{} of its {n_tensors} tensors are of matrices that the reference model does not adapt",
            n_tensors - used
        ));
    }
    Ok(())
}

/// A and B of a matrix, whose tensors' names begin with `name`; `None` where the file has
/// neither.
fn factors(
    file: &Gguf,
    name: &str,
    target: &AdaptableMatrix,
    model: &Model,
) -> Result<Option<(Tensor, Tensor)>, String> {
    let factor = |which: char| {
        let tensor = file.tensor(&format!("{name}{which}"));
        tensor.map(|tensor| matrix(&tensor, model)).transpose()
    };
    let (a, b) = match (factor('a')?, factor('b')?) {
        (Some(a), Some(b)) => (a, b),
        (None, None) => return Ok(None),
        _ => return Err(format!("{name}a and {name}b do not come together")),
    };
    let rank = a.size()[0];
    let found = (a.size(), b.size());
    let expected = (vec![rank, target.columns], vec![target.rows, rank]);
    if found != expected {
        return Err(format!(
            "{name}a and {name}b have shapes {found:?}, expected {expected:?}"
        ));
    }
    Ok(Some((a, b)))
}

/// A stored matrix in the model's arithmetic.
fn matrix(tensor: &jola_edit::gguf::Tensor<'_>, model: &Model) -> Result<Tensor, String> {
    let [columns, rows, 1, 1] = tensor.info.padded_dims() else {
        return Err(format!("{} is no matrix", tensor.info.name));
    };
    let mut values = vec![0f32; (rows * columns) as usize];
    ggml::dequantize(tensor.info.ty, tensor.bytes, &mut values)
        .map_err(|error| format!("{}: {error}", tensor.info.name))?;
    let matrix = Tensor::from_slice(&values).view([rows as i64, columns as i64]);
    Ok(matrix
        .to_kind(model.precision.math)
        .to_device(model.device()))
}
