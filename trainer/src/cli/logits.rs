//! `jola-train logits`: the reference model's logits, to compare with llama.cpp's.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use jola_edit::{EditSet, Output, Sidecar};
use tch::{no_grad, Device, Tensor};

use super::machine::{set_threads, DeviceChoice, DtypeChoice, WeightsChoice};
use super::values::count;
use crate::base;
use crate::method::{export, lora_file};
use crate::model::{Batch, Config, Devices, Model, Precision};
use crate::Error;

#[derive(Debug, Args)]
pub(super) struct LogitsArgs {
    /// Base model: a GGUF file, or a directory in Hugging Face's layout.
    #[arg(short, long, value_name = "BASE.gguf|DIR")]
    model: PathBuf,
    /// A sidecar to apply, with its strength after the last colon; may be given several times.
    #[arg(long, value_name = "EDIT.gguf[:S]")]
    jola: Vec<String>,
    /// A LoRA adapter to apply, with its strength after the last colon; may be given several times.
    #[arg(long, value_name = "LORA.gguf[:S]")]
    lora: Vec<String>,
    /// Token ids, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// Where to write them: little-endian float32, [n_tokens, n_vocab].
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// auto, cpu, cuda, cuda:N or cuda:N,cuda:M.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Number format of weights and activations.
    #[arg(long, value_enum, default_value_t = DtypeChoice::F32)]
    dtype: DtypeChoice,
    /// How weights are held; auto is dense.
    #[arg(long, value_enum, default_value_t = WeightsChoice::Auto)]
    weights: WeightsChoice,
    /// CPU threads [default: all cores].
    #[arg(short, long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
}

/// Does what was typed.
pub(super) fn run(args: LogitsArgs) -> Result<()> {
    set_threads(args.threads);
    let specs = |texts: &[String]| {
        let specs = texts.iter().map(|spec| jola_edit::parse_spec(spec));
        specs.collect::<Result<Vec<_>, _>>()
    };
    let (jola, loras) = (specs(&args.jola)?, specs(&args.lora)?);
    let files = jola.iter().chain(&loras).map(|(path, _)| path);
    let inputs: Vec<&PathBuf> = files.chain([&args.model]).collect();
    let output = Output::new(&args.output, &inputs)?;
    let mut sidecars = Vec::with_capacity(jola.len());
    for (path, strength) in jola {
        let sidecar = Sidecar::read(&path)?;
        sidecars.push(Applied {
            path,
            sidecar,
            strength,
        });
    }
    let devices = args.device.resolve()?;
    let (model, tokens) = (&args.model, &args.tokens);
    let precision = args.dtype.resolve(devices.first());
    let precision = match args.weights {
        WeightsChoice::Quantised => precision.in_blocks(),
        WeightsChoice::Auto | WeightsChoice::Dense => precision,
    };
    write(
        model,
        &sidecars,
        &loras,
        tokens,
        &output,
        (devices, precision),
    )?;
    Ok(())
}

/// A sidecar to apply.
#[derive(Clone, Debug)]
struct Applied {
    /// Its file, for messages.
    path: PathBuf,
    /// What the file holds.
    sidecar: Sidecar,
    /// How much of it is applied, by the user's choice.
    strength: f32,
}

/// Computes the logits of `tokens` under composed sidecars and LoRA adapters, each
/// with a strength, and writes them to `output`: little-endian float32, [n_tokens, n_vocab].
///
/// # Errors
/// Base, sidecars or adapters that cannot be read or do not fit each other, a token outside the
/// vocabulary, an output that cannot be written.
fn write(
    path: &Path,
    sidecars: &[Applied],
    loras: &[(PathBuf, f32)],
    tokens: &[u32],
    output: &Output,
    (devices, precision): (Devices, Precision),
) -> Result<(), Error> {
    let base = base::open(path)?;
    Config::read(&*base)?; // before its shape: this names what is not covered
    let (shape, weights) = (base.shape()?, base.weights()?);
    for applied in sidecars {
        let fits = applied.sidecar.check_base(&shape);
        fits.map_err(|mismatch| Error::BaseMismatch {
            sidecar: applied.path.clone(),
            base: path.to_path_buf(),
            mismatch,
        })?;
        if let Some(doubt) = applied.sidecar.doubt_base(&weights) {
            eprintln!("warning: {}: {doubt}", applied.path.display());
        }
    }
    let pairs: Vec<(&Sidecar, f32)> = sidecars.iter().map(|a| (&a.sidecar, a.strength)).collect();
    let set = EditSet::compose(&pairs)?;
    let device = devices.first();
    let model = Model::from_base(&*base, precision, devices)?;
    let n_vocab = model.config.n_vocab;
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= n_vocab) {
        return Err(Error::Token { token, n_vocab });
    }
    let mut changes = export::from_edit_set(&set, model.config.n_layer, precision.math, device);
    for (lora, strength) in loras {
        lora_file::add_to(
            &mut changes,
            lora,
            f64::from(*strength),
            &model,
            &shape.architecture,
        )?;
    }
    let tokens: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let logits = no_grad(|| model.forward(&Batch::all_rows(&tokens, device), &changes));
    let logits = logits.to_device(Device::Cpu);
    output.write(|file| write_f32(&logits, file))?;
    Ok(())
}

fn write_f32(logits: &Tensor, file: &mut impl Write) -> std::io::Result<()> {
    for row in 0..logits.size()[0] {
        for value in Vec::<f32>::try_from(logits.get(row)).expect("a row of float32") {
            file.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(())
}
