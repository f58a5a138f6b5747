//! Edits of other projects as sidecars.
//!
//! What is read, and from which project's code the names and layouts are taken, is in
//! `docs/import.md`. Everything is read without running any of it: a PyTorch file is a program in
//! Python's pickle language, of which [`pickle`] knows only what puts tensors together.

mod archive;
pub mod array;
mod bytes;
pub mod element;
mod error;
mod iti;
mod jola;
mod npy;
pub mod pickle;
mod pyvene;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jola_edit::gguf::Metadata;
use jola_edit::sidecar::{sha256, BaseShape, HeadVectors, LayerEdit};
use jola_edit::{FileError, Sidecar};

use array::Array;
use error::some_names;
pub use error::{ImportError, ImportErrorKind};
pub use pickle::PickleError;
pub use source::Source;

/// Whose layout a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Told by the names of the tensors.
    Auto,
    /// `attn_A`, `attn_v`, `log_g1`, `log_g2`: the paper's released code.
    Jola,
    /// `attn_A` and `attn_v` without gates, or offsets by layer and head.
    Lofit,
    /// Offsets, or directions with standard deviations, as NumPy arrays.
    Iti,
    /// A folder that pyvene saved.
    Pyvene,
}

/// How to import.
#[derive(Clone, Debug)]
pub struct ImportParams {
    /// Whose layout the files have.
    pub format: Format,
    /// Free text: what the edit is.
    pub name: String,
    /// Factor of ITI's offsets, its α.
    pub alpha: f32,
    /// Heads of each of pyvene's interventions on single heads, in the file's order.
    pub heads: Vec<BTreeSet<u32>>,
}

/// The model that an edit is for.
#[derive(Clone, Debug)]
pub struct ImportBase<'a> {
    /// Layers, heads and head width, which the edit must fit.
    pub shape: &'a BaseShape,
    /// Its name, free text.
    pub name: &'a str,
}

/// What the layouts produce: for each layer and head a scale and an offset, gates multiplied
/// in.
#[derive(Debug, Default)]
struct Vectors {
    mul: BTreeMap<(u32, u32), Vec<f32>>,
    add: BTreeMap<(u32, u32), Vec<f32>>,
    method: &'static str,
    warnings: Vec<String>,
}

/// Turns files, the shards of one checkpoint or a single one, or a folder of pyvene's into a
/// sidecar.
///
/// Heads whose gate is closed, and vectors of zeros, are left out. What the user should know
/// is in the result's `warnings`.
///
/// # Errors
/// What does not fit, naming file and tensor.
pub fn import(
    paths: &[PathBuf],
    base: &ImportBase<'_>,
    params: &ImportParams,
) -> Result<Sidecar, ImportError> {
    let first = paths.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
    let inexact = |text: &str| FileError::new(first, ImportErrorKind::Inexact(text.to_owned()));
    let folder = match (params.format, paths) {
        (Format::Auto, [path]) => path.is_dir(),
        (Format::Pyvene, [path]) if path.is_dir() => true,
        (Format::Pyvene, _) => return Err(inexact("pyvene saves a folder: give it, and only it")),
        _ => false,
    };
    let (vectors, files) = if folder {
        pyvene::read(first, base.shape, &params.heads)?
    } else if params.heads.is_empty() {
        (read_files(paths, base.shape, params)?, paths.to_vec())
    } else {
        return Err(FileError::new(first, ImportErrorKind::HeadsNamed));
    };
    let mut train = Metadata::new();
    for (index, path) in files.iter().enumerate() {
        let error = |kind| FileError::new(path, kind);
        let digest = sha256(path).map_err(ImportErrorKind::io("read it"));
        let digest = digest.map_err(error)?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut insert = |key: String, value: String| {
            let inserted = train.insert(key, value);
            inserted.map_err(|kind| error(ImportErrorKind::Inexact(kind.to_string())))
        };
        insert(format!("imported.{index}.file"), name)?;
        insert(format!("imported.{index}.sha256"), digest)?;
    }
    let layers = layers(&vectors);
    let sidecar = Sidecar {
        name: params.name.clone(),
        base_model_name: base.name.to_owned(),
        train,
        warnings: vectors.warnings,
        ..base.shape.sidecar(vectors.method, layers)
    };
    let valid = sidecar.validate();
    valid.map_err(|kind| inexact(&kind.to_string()))?;
    Ok(sidecar)
}

/// Reads an edit that is stored as tensors by name.
fn read_files(
    paths: &[PathBuf],
    shape: &BaseShape,
    params: &ImportParams,
) -> Result<Vectors, ImportError> {
    let sources = paths
        .iter()
        .map(|path| Source::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let files = Files::new(&sources)?;
    match params.format {
        Format::Iti => iti::read(&files, shape, params.alpha),
        Format::Lofit => jola::read(&files, shape, false),
        Format::Jola => jola::read(&files, shape, true),
        _ if sources.iter().any(Source::is_numpy) => iti::read(&files, shape, params.alpha),
        _ => jola::read(&files, shape, jola::has_gates(&files)),
    }
}

/// A tensor that is there, with all values finite.
fn finite(source: &Source, name: &str) -> Result<Array, ImportError> {
    let array = source.read(name)?;
    match array.values.iter().position(|value| !value.is_finite()) {
        None => Ok(array),
        Some(index) => Err(source.error(ImportErrorKind::NotFinite {
            tensor: name.to_owned(),
            index,
            value: array.values[index],
        })),
    }
}

/// The sidecar's layers: heads in order, vectors of zeros left out.
fn layers(vectors: &Vectors) -> BTreeMap<u32, LayerEdit> {
    let mut layers: BTreeMap<u32, LayerEdit> = BTreeMap::new();
    let halves = [
        (
            &vectors.mul,
            (|edit| &mut edit.mul) as fn(&mut LayerEdit) -> &mut Option<HeadVectors>,
        ),
        (&vectors.add, |edit| &mut edit.add),
    ];
    for (vectors, half) in halves {
        for (&(layer, head), values) in vectors {
            if values.iter().all(|value| *value == 0.0) {
                continue;
            }
            let edit = half(layers.entry(layer).or_default()).get_or_insert(HeadVectors {
                heads: Vec::new(),
                values: Vec::new(),
            });
            edit.heads.push(head);
            edit.values.extend(values);
        }
    }
    layers
}

/// All tensors of all files.
struct Files<'a> {
    sources: &'a [Source],
    by_name: BTreeMap<String, &'a Source>,
}

impl<'a> Files<'a> {
    fn new(sources: &'a [Source]) -> Result<Self, ImportError> {
        let mut by_name: BTreeMap<String, &Source> = BTreeMap::new();
        for source in sources {
            for name in source.names() {
                if let Some(other) = by_name.get(&name) {
                    return Err(source.error(ImportErrorKind::Duplicate {
                        tensor: name,
                        other: other.path().display().to_string(),
                    }));
                }
                by_name.insert(name, source);
            }
        }
        Ok(Self { sources, by_name })
    }

    /// The file to name in errors about the whole.
    fn first(&self) -> &'a Source {
        &self.sources[0]
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// A tensor that is there, with all values finite.
    fn read(&self, name: &str) -> Result<Array, ImportError> {
        finite(
            self.by_name.get(name).copied().unwrap_or(self.first()),
            name,
        )
    }

    /// An error about a tensor's file.
    fn error(&self, name: &str, kind: ImportErrorKind) -> ImportError {
        self.by_name
            .get(name)
            .copied()
            .unwrap_or(self.first())
            .error(kind)
    }

    fn no_edit(&self, layout: &'static str) -> ImportError {
        if self.by_name.contains_key("source_representation") {
            let text = "one intervention of pyvene: give the folder that it is in, whose \
                config.json tells where it belongs";
            return self
                .first()
                .error(ImportErrorKind::Inexact(text.to_owned()));
        }
        self.first().error(ImportErrorKind::NoEdit {
            layout,
            names: some_names(self.names()),
        })
    }
}
