//! The checkpoint file: a run's [`State`] as safetensors, with its counters and the run's
//! configuration in the header. It is replaced atomically: after a crash at any moment, or
//! on a full disk, the last complete one stands.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use jola_edit::atomic::write_atomically;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{de::DeserializeOwned, Serialize};
use tch::{Kind, Tensor};

use super::run_config::RunConfig;
use crate::train::{Counters, State};
use crate::Error;

/// Version of the layout.
const FORMAT: &str = "1";

/// What a checkpoint file holds.
#[derive(Debug)]
pub struct Checkpoint {
    /// What the run was told.
    pub config: RunConfig,
    /// Where the run stands.
    pub state: State,
    /// Bytes of the metrics file that belong to the steps done.
    pub metrics_bytes: u64,
}

/// Writes a checkpoint to `path`.
///
/// # Errors
/// Those of the file system; `path` is then as it was.
pub fn write(
    path: &Path,
    config: &RunConfig,
    state: &State,
    metrics_bytes: u64,
) -> std::io::Result<()> {
    let bytes: Vec<Vec<u8>> = state.tensors.iter().map(|(_, t)| raw(t)).collect();
    let views = state
        .tensors
        .iter()
        .zip(&bytes)
        .map(|((name, tensor), bytes)| {
            let shape = tensor.size().iter().map(|&n| n as usize).collect();
            let view = TensorView::new(dtype(tensor.kind())?, shape, bytes)?;
            Ok((name, view))
        });
    let header = HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("config".to_owned(), json(config)),
        ("counters".to_owned(), json(&state.counters)),
        ("metrics_bytes".to_owned(), metrics_bytes.to_string()),
    ]);
    let views: Result<Vec<_>, SafeTensorError> = views.collect();
    let file = views
        .and_then(|views| safetensors::serialize(views, Some(header)))
        .map_err(std::io::Error::other)?;
    write_atomically(path, |out| out.write_all(&file))
}

/// Reads the checkpoint at `path`.
///
/// # Errors
/// [`Error::Read`] where there is none; [`Error::Checkpoint`] with what is wrong in it.
pub fn read(path: &Path) -> Result<Checkpoint, Error> {
    let file = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_path_buf(),
        reason,
    };
    let unsound = |error: SafeTensorError| wrong(error.to_string());
    let (_, header) = SafeTensors::read_metadata(&file).map_err(unsound)?;
    let header = header.metadata().clone().unwrap_or_default();
    let entry = |key: &str| {
        let missing = || wrong(format!("its header has no `{key}`"));
        header.get(key).ok_or_else(missing)
    };
    let format = entry("format")?;
    if format != FORMAT {
        return Err(wrong(format!("format {format}, expected {FORMAT}")));
    }
    let mut tensors = Vec::new();
    for (name, view) in SafeTensors::deserialize(&file).map_err(unsound)?.tensors() {
        let Some(kind) = kind(view.dtype()) else {
            return Err(wrong(format!("tensor `{name}` is {:?}", view.dtype())));
        };
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        tensors.push((name, Tensor::from_data_size(view.data(), &shape, kind)));
    }
    let counters: Counters = parse(entry("counters")?).map_err(wrong)?;
    Ok(Checkpoint {
        config: parse(entry("config")?).map_err(wrong)?,
        state: State { counters, tensors },
        metrics_bytes: parse(entry("metrics_bytes")?).map_err(wrong)?,
    })
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data")
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The bytes of a tensor on the CPU.
fn raw(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// The formats that parameters and their state have.
const FORMATS: [(Kind, Dtype); 4] = [
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
];

fn dtype(kind: Kind) -> Result<Dtype, SafeTensorError> {
    let found = FORMATS.iter().find(|(k, _)| *k == kind);
    // The only tensors are ours.
    Ok(found.expect("a format of parameters or counters").1)
}

fn kind(dtype: Dtype) -> Option<Kind> {
    let found = FORMATS.iter().find(|(_, d)| *d == dtype);
    found.map(|(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Validation;

    fn state() -> State {
        State {
            counters: Counters {
                step: 7,
                tokens: 99,
                training_seconds: 0.1 + 0.2,
                best: Some(Validation {
                    loss: 1.0 / 3.0,
                    exact: 0.7,
                }),
                stale: 1,
                ..Counters::default()
            },
            tensors: vec![
                (
                    "a.value".to_owned(),
                    Tensor::from_slice(&[1.5f32, -0.0, f32::MIN_POSITIVE]),
                ),
                ("a.updates".to_owned(), Tensor::from_slice(&[i64::MAX])),
                (
                    "b".to_owned(),
                    Tensor::from_slice(&[1.0f64 / 3.0; 6]).view([2, 3]),
                ),
                (
                    "c".to_owned(),
                    Tensor::from_slice(&[0.1f32]).to_kind(Kind::BFloat16),
                ),
            ],
        }
    }

    fn config() -> RunConfig {
        let mut config = RunConfig::default();
        config.set("lr", 0.05);
        config
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let state = state();
        write(&path, &config(), &state, 1234).unwrap();
        let read = read(&path).unwrap();
        assert_eq!((read.metrics_bytes, &read.config), (1234, &config()));
        assert_eq!(read.state.counters, state.counters);
        assert_eq!(read.state.tensors.len(), state.tensors.len());
        for (name, tensor) in &state.tensors {
            let again = read.state.tensor(name, tensor).unwrap();
            assert_eq!(raw(again), raw(tensor), "{name}");
        }
    }

    #[test]
    fn a_file_that_is_no_checkpoint_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        write(&path, &config(), &state(), 0).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let text = read(&path).unwrap_err().to_string();
            assert!(text.contains("is no sound checkpoint"), "{length}: {text}");
        }
        std::fs::write(&path, [&8u64.to_le_bytes()[..], b"{}      "].concat()).unwrap();
        let text = read(&path).unwrap_err().to_string();
        assert!(text.contains("its header has no `format`"), "{text}");
    }
}
