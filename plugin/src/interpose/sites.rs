//! The real `ggml_mul_mat` behind each place that calls it.

use std::collections::HashMap;
use std::ffi::{c_char, c_void, CStr};
use std::sync::{OnceLock, PoisonError, RwLock};

use jola_edit::function_table;
use jola_edit::graph::{GgmlContext, GgmlTensor};

use crate::resolve::{lookup, next, ResolveError};

function_table! {
    /// The functions of the ggml that a call was meant for.
    pub struct Site {
        ggml_mul_mat: unsafe extern "C" fn(*mut GgmlContext, *mut GgmlTensor, *mut GgmlTensor) -> *mut GgmlTensor,
        ggml_get_name: unsafe extern "C" fn(*const GgmlTensor) -> *const c_char,
        ggml_get_data: unsafe extern "C" fn(*const GgmlTensor) -> *mut c_void,
    }
}

impl Site {
    /// The ggml that a call from `caller` was meant for.
    ///
    /// # Errors
    /// Any [`ResolveError`].
    pub fn of(caller: usize) -> Result<Self, ResolveError> {
        static GLOBAL: OnceLock<Site> = OnceLock::new();
        static SITES: OnceLock<RwLock<HashMap<usize, Site>>> = OnceLock::new();
        if let Some(site) = GLOBAL.get() {
            return Ok(*site);
        }
        let sites = SITES.get_or_init(RwLock::default);
        let known = sites.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = known.get(&caller) {
            return Ok(*site);
        }
        drop(known);
        // SAFETY: the functions of these names have these types in every ggml.
        let site = unsafe { Self::find(|name| lookup(name, caller))? };
        if next(c"ggml_mul_mat").is_some() {
            return Ok(*GLOBAL.get_or_init(|| site));
        }
        let mut sites = sites.write().unwrap_or_else(PoisonError::into_inner);
        sites.insert(caller, site);
        Ok(site)
    }

    /// The name that a tensor has now.
    ///
    /// # Safety
    /// `tensor` must be a live tensor of this ggml; the name is valid as long as it is not
    /// renamed.
    pub unsafe fn name<'a>(&self, tensor: *const GgmlTensor) -> &'a CStr {
        // SAFETY: ggml returns the tensor's own, NUL-terminated name.
        unsafe { CStr::from_ptr((self.ggml_get_name)(tensor)) }
    }
}
