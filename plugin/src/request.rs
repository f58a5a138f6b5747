//! Which edits are wanted: those of `LLAMA_JOLA`, or those that the C API was given.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jola_edit::{
    parse_spec, split_specs, ComposeError, EditSet, Sidecar, SidecarError, SpecError,
    SPECS_VARIABLE,
};

/// Sidecars with their strengths, read, checked and composed.
#[derive(Debug)]
pub struct Request {
    /// The sidecars in the order of application.
    pub sidecars: Vec<(PathBuf, Sidecar)>,
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
        let mut strengths = Vec::new();
        for spec in specs {
            let (path, strength) = parse_spec(spec)?;
            let sidecar = Sidecar::read(&path)?;
            for warning in &sidecar.warnings {
                crate::log::warning(format_args!("{}: {warning}", path.display()));
            }
            sidecars.push((path, sidecar));
            strengths.push(strength);
        }
        let pairs: Vec<(&Sidecar, f32)> = sidecars
            .iter()
            .zip(&strengths)
            .map(|((_, sidecar), strength)| (sidecar, *strength))
            .collect();
        let edits = EditSet::compose(&pairs)?;
        Ok(Self { sidecars, edits })
    }

    /// The files, for messages.
    pub fn names(&self) -> String {
        let names: Vec<String> = self
            .sidecars
            .iter()
            .map(|(path, _)| path.display().to_string())
            .collect();
        names.join(", ")
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

/// Whether anything is to be done at all: `LLAMA_JOLA` was set when this was first asked, or
/// the C API is in use.
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
