//! Which edits are wanted: those of `LLAMA_JOLA`, or those that the C API was given.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use jola_edit::{
    parse_spec, split_specs, ComposeError, EditSet, Sidecar, SidecarError, SpecError,
    SPECS_VARIABLE,
};

/// What tells a file's content from any other's.
pub type Digest = [u8; 32];

/// A sidecar as it was read from a file.
#[derive(Debug)]
pub struct Source {
    /// The file, which may have changed or gone since.
    pub path: PathBuf,
    /// What it held.
    pub sidecar: Sidecar,
    /// The digest of that.
    pub digest: Digest,
}

impl Source {
    /// Reads a sidecar. Warnings are logged.
    ///
    /// # Errors
    /// As [`Sidecar::read`].
    pub fn read(path: &Path) -> Result<Self, SidecarError> {
        let sidecar = Sidecar::read(path)?;
        for warning in &sidecar.warnings {
            crate::log::warning(format_args!("{}: {warning}", path.display()));
        }
        let mut digest = Sha256::new();
        sidecar
            .write_to(&mut digest)
            .expect("what was read obeys every rule of the format");
        Ok(Self {
            path: path.to_owned(),
            digest: digest.finalize().into(),
            sidecar,
        })
    }
}

/// Sidecars with their strengths, in the order of application.
pub type Sources = Vec<(Arc<Source>, f32)>;

/// What sidecars do together.
///
/// # Errors
/// Any [`ComposeError`].
pub fn compose(sources: &[(Arc<Source>, f32)]) -> Result<EditSet, ComposeError> {
    let pairs = sources
        .iter()
        .map(|(source, strength)| (&source.sidecar, *strength));
    EditSet::compose(&pairs.collect::<Vec<_>>())
}

/// The files of sidecars, for messages.
pub fn names(sources: &[(Arc<Source>, f32)]) -> String {
    let names = sources
        .iter()
        .map(|(source, _)| source.path.display().to_string());
    names.collect::<Vec<_>>().join(", ")
}

/// Sidecars with their strengths, read, checked and composed.
#[derive(Debug)]
pub struct Request {
    /// The sidecars in the order of application.
    pub sidecars: Sources,
    /// What they do together.
    pub edits: EditSet,
}

/// Why a request cannot be met by any model.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not `FILE[:STRENGTH]`.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A file that is no sidecar.
    #[error(transparent)]
    Sidecar(#[from] SidecarError),
    /// Sidecars that do not go together.
    #[error(transparent)]
    Compose(#[from] ComposeError),
}

impl Request {
    /// Reads and composes sidecars, each `FILE[:STRENGTH]`. Warnings are logged.
    ///
    /// # Errors
    /// Any [`RequestError`].
    pub fn read<'a>(specs: impl IntoIterator<Item = &'a str>) -> Result<Self, RequestError> {
        let mut sidecars = Vec::new();
        for spec in specs {
            let (path, strength) = parse_spec(spec)?;
            sidecars.push((Arc::new(Source::read(&path)?), strength));
        }
        let edits = compose(&sidecars)?;
        Ok(Self { sidecars, edits })
    }

    /// The files, for messages.
    pub fn names(&self) -> String {
        names(&self.sidecars)
    }
}

/// The edits of contexts to come.
#[derive(Clone, Default)]
enum Defaults {
    /// `LLAMA_JOLA` has not been read.
    #[default]
    Unread,
    Read(Result<Option<Arc<Request>>, Arc<RequestError>>),
}

static DEFAULTS: Mutex<Defaults> = Mutex::new(Defaults::Unread);

/// The edits of contexts to come: what the C API set, else what `LLAMA_JOLA` says. The
/// files are read at the first call.
///
/// # Errors
/// Any [`RequestError`], again at each call.
pub fn defaults() -> Result<Option<Arc<Request>>, Arc<RequestError>> {
    let mut defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Defaults::Read(result) = &*defaults {
        return result.clone();
    }
    let result = match variable() {
        None => Ok(None),
        Some(text) => Request::read(split_specs(&text))
            .map(|request| Some(Arc::new(request)))
            .map_err(Arc::new),
    };
    *defaults = Defaults::Read(result.clone());
    result
}

/// Replaces the edits of contexts to come, `LLAMA_JOLA` included.
pub fn set_defaults(request: Option<Arc<Request>>) {
    enable();
    *DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner) = Defaults::Read(Ok(request));
}

fn variable() -> Option<String> {
    let text = std::env::var_os(SPECS_VARIABLE)?;
    (!text.is_empty()).then(|| text.to_string_lossy().into_owned())
}

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;
static MODE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether anything is to be done at all: `LLAMA_JOLA` was set when this was first asked, the
/// C API is in use, or a sidecar was loaded as an adapter.
pub fn enabled() -> bool {
    match MODE.load(Ordering::Relaxed) {
        UNKNOWN => {
            let mode = if variable().is_some() { ON } else { OFF };
            // `enable` may have come in between: it wins.
            let _ = MODE.compare_exchange(UNKNOWN, mode, Ordering::Relaxed, Ordering::Relaxed);
            MODE.load(Ordering::Relaxed) == ON
        }
        mode => mode == ON,
    }
}

/// Says that contexts created from now on are to be followed.
pub fn enable() {
    MODE.store(ON, Ordering::Relaxed);
}
