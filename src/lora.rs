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

use crate::native::{self, ffi};
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
    model: Model,
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
        let _guard = self.model.adapters_mut();
        // SAFETY: created by llama_adapter_lora_init, freed once; contexts that use it hold
        // a clone of the Lora, so none is left, and the model is still alive. No other thread
        // goes through the model's adapters, as the guard says.
        unsafe { sys::llama_adapter_lora_free(self.ptr.as_ptr()) };
    }
}

impl Lora {
    /// Loads an adapter of `model`. Other threads that decode with the model, or load or drop
    /// an adapter of it, wait meanwhile, as this one waits for them.
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
        let guard = model.adapters_mut();
        // SAFETY: the model is alive, the path is NUL-terminated. No other thread goes through
        // the model's adapters, as the guard says.
        let init = |result: &mut _| unsafe {
            ffi::jola_adapter_lora_init(model.as_ptr(), c_path.as_ptr(), result)
        };
        let (ptr, reason) = logging::with_errors(|| {
            native::guarded("llama_adapter_lora_init", std::ptr::null_mut(), init)
        });
        drop(guard);
        let ptr = ptr.map_err(|error| fail(error.to_string()))?;
        let ptr = NonNull::new(ptr).ok_or_else(|| fail(reason))?;
        let inner = Inner {
            ptr,
            path: path.into(),
            model: model.clone(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The file that it was loaded from.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The model that it changes.
    pub fn model(&self) -> &Model {
        &self.inner.model
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
