//! LoRA adapters in llama.cpp's own file format: low-rank changes of weight matrices.
//!
//! `jola-train --method lora` writes such files, so that the method everybody knows can be
//! compared with edits by the same commands. llama.cpp loads and applies them itself.

use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use jola_edit::EditSet;
use llama_cpp_sys_2 as sys;

use crate::{logging, Error, Model};

/// A loaded LoRA adapter. Cheap to clone: clones share the weights.
///
/// Load it before the contexts that use it: llama.cpp sizes their graphs by the adapters
/// that the model has.
#[derive(Clone)]
pub struct Lora {
    inner: Arc<Inner>,
}

struct Inner {
    ptr: NonNull<sys::llama_adapter_lora>,
    path: PathBuf,
    /// Keeps the model alive, which the adapter is registered with.
    _model: Model,
}

impl fmt::Debug for Lora {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lora").field(&self.inner.path).finish()
    }
}

// SAFETY: an adapter is not changed after loading.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: created by llama_adapter_lora_init, freed once; contexts that use it hold
        // a clone of the Lora, so none is left, and the model is still alive.
        unsafe { sys::llama_adapter_lora_free(self.ptr.as_ptr()) };
    }
}

impl Lora {
    /// Loads an adapter of `model`. Not to be called while another thread loads or drops
    /// one of the same model.
    ///
    /// # Errors
    /// [`Error::Lora`], with llama.cpp's own reason.
    pub fn load(model: &Model, path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let fail = |reason: String| Error::Lora {
            path: path.into(),
            reason,
        };
        std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| fail("its path contains a NUL byte".into()))?;
        // SAFETY: the model is alive, the path is NUL-terminated.
        let (ptr, reason) = logging::with_errors(|| unsafe {
            sys::llama_adapter_lora_init(model.as_ptr(), c_path.as_ptr())
        });
        let ptr = NonNull::new(ptr).ok_or_else(|| fail(reason))?;
        let inner = Inner {
            ptr,
            path: path.into(),
            _model: model.clone(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The file that it was loaded from.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::llama_adapter_lora {
        self.inner.ptr.as_ptr()
    }
}

/// All that a context applies to the frozen model.
#[derive(Clone, Debug, Default)]
pub struct Adapters {
    /// The composed edits.
    pub edits: EditSet,
    /// LoRA adapters with their scales; their changes add up.
    pub loras: Vec<(Lora, f32)>,
}

impl Adapters {
    /// Whether the model stays as it is.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.loras.iter().all(|(_, scale)| *scale == 0.0)
    }
}

impl From<EditSet> for Adapters {
    fn from(edits: EditSet) -> Self {
        Self {
            edits,
            loras: Vec::new(),
        }
    }
}
