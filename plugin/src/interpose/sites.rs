//! The real `ggml_mul_mat` behind each place that calls it.

use std::collections::HashMap;
use std::ffi::{c_char, c_void, CStr};
use std::sync::{OnceLock, PoisonError, RwLock};

use jola_edit::graph::{GgmlContext, GgmlTensor};

use crate::resolve::{lookup, next, ResolveError};

type MulMat =
    unsafe extern "C" fn(*mut GgmlContext, *mut GgmlTensor, *mut GgmlTensor) -> *mut GgmlTensor;
type GetName = unsafe extern "C" fn(*const GgmlTensor) -> *const c_char;
type GetData = unsafe extern "C" fn(*const GgmlTensor) -> *mut c_void;

/// The functions of the ggml that a call was meant for.
#[derive(Clone, Copy)]
pub struct Site {
    /// Its `ggml_mul_mat`.
    pub mul_mat: MulMat,
    /// Its `ggml_get_name`.
    pub get_name: GetName,
    /// Its `ggml_get_data`.
    pub get_data: GetData,
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
        let site = Self::find(caller)?;
        if next(c"ggml_mul_mat").is_some() {
            return Ok(*GLOBAL.get_or_init(|| site));
        }
        let mut sites = sites.write().unwrap_or_else(PoisonError::into_inner);
        sites.insert(caller, site);
        Ok(site)
    }

    fn find(caller: usize) -> Result<Self, ResolveError> {
        let mul_mat = lookup(c"ggml_mul_mat", caller)?;
        let get_name = lookup(c"ggml_get_name", caller)?;
        let get_data = lookup(c"ggml_get_data", caller)?;
        // SAFETY: the functions of these names have these types in every ggml.
        unsafe {
            Ok(Self {
                mul_mat: std::mem::transmute::<usize, MulMat>(mul_mat),
                get_name: std::mem::transmute::<usize, GetName>(get_name),
                get_data: std::mem::transmute::<usize, GetData>(get_data),
            })
        }
    }

    /// A tensor's name.
    ///
    /// # Safety
    /// `tensor` must be a live tensor of this ggml; the name is valid as long as it is not
    /// renamed.
    pub unsafe fn name<'a>(&self, tensor: *const GgmlTensor) -> &'a CStr {
        // SAFETY: ggml returns the tensor's own, NUL-terminated name.
        unsafe { CStr::from_ptr((self.get_name)(tensor)) }
    }
}
