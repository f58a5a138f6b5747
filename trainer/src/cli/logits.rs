//! Logits of the reference model, to compare with llama.cpp's.

use std::io::Write;
use std::path::{Path, PathBuf};

use jola_edit::atomic::write_atomically;
use jola_edit::{EditSet, Sidecar};
use tch::{no_grad, Device, Tensor};

use crate::base::tensor as base;
use crate::model::batch::Batch;
use crate::model::config::Config;
use crate::method::export;
use crate::method::lora_file;
use crate::model::decoder::{Model, Precision};
use crate::Error;

/// A sidecar to apply.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Its file, for messages.
    pub path: PathBuf,
    /// What the file holds.
    pub sidecar: Sidecar,
    /// The user's scale.
    pub scale: f32,
}

/// Computes the logits of `tokens` in float32 under composed sidecars and LoRA adapters, each
/// with a scale, and writes them to
/// `out`: little-endian float32, [n_tokens, n_vocab].
///
/// # Errors
/// Base, sidecars or adapters that cannot be read or do not fit each other, a token outside the
/// vocabulary, an output that cannot be written.
pub fn write(
    path: &Path,
    sidecars: &[Applied],
    loras: &[(PathBuf, f32)],
    tokens: &[u32],
    out: &Path,
    device: Device,
) -> Result<(), Error> {
    let base = base::open(path)?;
    Config::read(&*base)?; // before its shape: this names what is not covered
    let shape = base.shape()?;
    for applied in sidecars {
        let fits = applied.sidecar.check_base(&shape);
        fits.map_err(|mismatch| Error::BaseMismatch {
            sidecar: applied.path.clone(),
            base: path.to_path_buf(),
            mismatch,
        })?;
    }
    let pairs: Vec<(&Sidecar, f32)> = sidecars.iter().map(|a| (&a.sidecar, a.scale)).collect();
    let set = EditSet::compose(&pairs)?;
    let model = Model::from_base(&*base, Precision::F32, device)?;
    let n_vocab = model.config.n_vocab;
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= n_vocab) {
        return Err(Error::Token { token, n_vocab });
    }
    let mut edits = export::from_edit_set(&set, model.config.n_layer, Precision::F32.math, device);
    for (lora, scale) in loras {
        lora_file::add_to(
            &mut edits,
            lora,
            f64::from(*scale),
            &model,
            &shape.architecture,
        )?;
    }
    let tokens: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let logits = no_grad(|| model.forward(&Batch::all_rows(&tokens, device), &edits));
    write_f32(&logits.to_device(Device::Cpu), out).map_err(|source| Error::Write {
        path: out.to_path_buf(),
        source,
    })
}

fn write_f32(logits: &Tensor, out: &Path) -> std::io::Result<()> {
    write_atomically(out, |file| {
        for row in 0..logits.size()[0] {
            for value in Vec::<f32>::try_from(logits.get(row)).expect("a row of float32") {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        Ok(())
    })
}
