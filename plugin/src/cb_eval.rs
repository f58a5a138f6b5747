//! The slower way, for programs into which nothing can be loaded: llama.cpp calls back after
//! it has computed a tensor (`cb_eval` of its context parameters), and the head outputs are
//! edited then, through the host's memory.
//!
//! Each edited layer ends a piece of the graph there and waits for its device. Only the cached
//! values' rotation (a quantised V cache) and architectures that reshape the head outputs for a
//! gate cannot be had this way: they are refused.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_void, CStr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jola_edit::graph::{GgmlTensor, GraphError};
use jola_edit::DenseEdit;

use crate::host::{LlamaModel, ModelApi};
use crate::operand::{head_outputs, reshaped_head_outputs};
use crate::request::Request;

/// A callback as llama.cpp's context parameters take it; may be null.
pub type EvalCallback = Option<
    unsafe extern "C" fn(tensor: *mut GgmlTensor, ask: bool, user_data: *mut c_void) -> bool,
>;

/// Functions of the llama.cpp that a program has linked in: set each field to the function
/// of its name.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CbEvalHost {
    /// `ggml_get_name`
    pub ggml_get_name: unsafe extern "C" fn(tensor: *const GgmlTensor) -> *const c_char,
    /// `ggml_op_desc`
    pub ggml_op_desc: unsafe extern "C" fn(tensor: *const GgmlTensor) -> *const c_char,
    /// `ggml_nelements`
    pub ggml_nelements: unsafe extern "C" fn(tensor: *const GgmlTensor) -> i64,
    /// `ggml_nrows`
    pub ggml_nrows: unsafe extern "C" fn(tensor: *const GgmlTensor) -> i64,
    /// `ggml_nbytes`
    pub ggml_nbytes: unsafe extern "C" fn(tensor: *const GgmlTensor) -> usize,
    /// `ggml_backend_tensor_get`
    pub ggml_backend_tensor_get: unsafe extern "C" fn(
        tensor: *const GgmlTensor,
        data: *mut c_void,
        offset: usize,
        size: usize,
    ),
    /// `ggml_backend_tensor_set`
    pub ggml_backend_tensor_set: unsafe extern "C" fn(
        tensor: *mut GgmlTensor,
        data: *const c_void,
        offset: usize,
        size: usize,
    ),
    /// `llama_model_meta_val_str`
    pub llama_model_meta_val_str: unsafe extern "C" fn(
        model: *const LlamaModel,
        key: *const c_char,
        buf: *mut c_char,
        buf_size: usize,
    ) -> i32,
    /// `llama_model_has_encoder`
    pub llama_model_has_encoder: unsafe extern "C" fn(model: *const LlamaModel) -> bool,
    /// `llama_model_has_decoder`
    pub llama_model_has_decoder: unsafe extern "C" fn(model: *const LlamaModel) -> bool,
}

impl CbEvalHost {
    /// The functions that tell about a model. The C struct is flat, so they cannot be one field.
    pub(crate) fn model_api(&self) -> ModelApi {
        ModelApi {
            llama_model_meta_val_str: self.llama_model_meta_val_str,
            llama_model_has_encoder: self.llama_model_has_encoder,
            llama_model_has_decoder: self.llama_model_has_decoder,
        }
    }
}

/// Why a computation did not get its edits.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CbEvalError {
    /// A layer's head outputs have another width, or never came.
    #[error("{0}")]
    Graph(String),
    /// The head outputs are not plain contiguous floats.
    #[error("layer {layer}: the head outputs are not contiguous 32-bit floats")]
    Format {
        /// The layer, counted from 0.
        layer: u32,
    },
    /// The head outputs are turned or gated after the callback sees them.
    #[error(
        "layer {layer}: the head outputs are turned back after a quantised V cache's rotation, \
         or gated; use an f16 V cache or set LLAMA_ATTN_ROT_DISABLE=1"
    )]
    Reshaped {
        /// The layer, counted from 0.
        layer: u32,
    },
}

/// Edits that a callback applies.
pub struct CbEval {
    host: CbEvalHost,
    request: Request,
    chained: EvalCallback,
    chained_data: *mut c_void,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    fired: BTreeSet<u32>,
    /// The first failure; it stays.
    failed: Option<CbEvalError>,
    /// The chained callback wants the tensor that was asked about last.
    chained_wants: bool,
    values: Vec<f32>,
}

impl CbEval {
    /// Edits to apply through `host`; the caller's own callback goes on being called.
    pub fn new(
        host: CbEvalHost,
        request: Request,
        chained: EvalCallback,
        chained_data: *mut c_void,
    ) -> Self {
        Self {
            host,
            request,
            chained,
            chained_data,
            progress: Mutex::default(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers llama.cpp: whether a tensor is wanted (`ask`), else whether to go on after it.
    ///
    /// # Safety
    /// `tensor` must be a live tensor of the host, computed unless `ask`.
    pub unsafe fn call(&self, tensor: *mut GgmlTensor, ask: bool) -> bool {
        let progress = &mut *self.progress();
        // SAFETY: the host's own function on its own tensor; the name is NUL-terminated.
        let name = unsafe { CStr::from_ptr((self.host.ggml_get_name)(tensor)) };
        let name = name.to_str().unwrap_or_default();
        let edit = head_outputs(name)
            .and_then(|layer| Some((layer, self.request.edits.layers.get(&layer)?)))
            // SAFETY: as above.
            .filter(|_| is_arranged(unsafe { CStr::from_ptr((self.host.ggml_op_desc)(tensor)) }));
        if ask {
            if let Some(layer) = reshaped_head_outputs(name) {
                if self.request.edits.layers.contains_key(&layer) {
                    progress.fail(CbEvalError::Reshaped { layer });
                }
            }
            // SAFETY: the caller's own callback with what llama.cpp would give it.
            let wants =
                |callback: ChainedCallback| unsafe { callback(tensor, true, self.chained_data) };
            progress.chained_wants = self.chained.is_some_and(wants);
            return progress.chained_wants || edit.is_some();
        }
        if let Some((layer, edit)) = edit {
            // SAFETY: the tensor is computed.
            match unsafe { self.edit(tensor, layer, edit, &mut progress.values) } {
                Ok(()) => _ = progress.fired.insert(layer),
                Err(error) => progress.fail(error),
            }
        }
        match self.chained {
            // SAFETY: as above.
            Some(callback) if progress.chained_wants => unsafe {
                callback(tensor, false, self.chained_data)
            },
            _ => true,
        }
    }

    /// # Safety
    /// `tensor` must be a live, computed tensor of the host.
    unsafe fn edit(
        &self,
        tensor: *mut GgmlTensor,
        layer: u32,
        edit: &DenseEdit,
        values: &mut Vec<f32>,
    ) -> Result<(), CbEvalError> {
        let host = &self.host;
        // SAFETY: the host's own functions, which read the tensor's shape.
        let (elements, rows, bytes) = unsafe {
            let elements = (host.ggml_nelements)(tensor);
            (
                elements,
                (host.ggml_nrows)(tensor),
                (host.ggml_nbytes)(tensor),
            )
        };
        let found = elements / rows.max(1);
        if found != edit.width() as i64 {
            let expected = edit.width();
            let error = GraphError::Width {
                layer,
                expected,
                found,
            };
            return Err(CbEvalError::Graph(error.to_string()));
        }
        values.resize(elements as usize, 0.0);
        if std::mem::size_of_val(values.as_slice()) != bytes {
            return Err(CbEvalError::Format { layer });
        }
        // SAFETY: `values` takes the tensor's bytes, all of them.
        unsafe { (host.ggml_backend_tensor_get)(tensor, values.as_mut_ptr().cast(), 0, bytes) };
        edit.apply(values);
        // SAFETY: as above.
        unsafe { (host.ggml_backend_tensor_set)(tensor, values.as_ptr().cast(), 0, bytes) };
        Ok(())
    }

    /// Whether every edited layer has been edited in the computations so far.
    ///
    /// # Errors
    /// The first [`CbEvalError`].
    pub fn check(&self) -> Result<(), CbEvalError> {
        let progress = self.progress();
        if let Some(error) = &progress.failed {
            return Err(error.clone());
        }
        let layers = self.request.edits.layers.keys().copied();
        let layers: Vec<u32> = layers
            .filter(|layer| !progress.fired.contains(layer))
            .collect();
        if layers.is_empty() {
            return Ok(());
        }
        let error = GraphError::NeverFired { layers };
        Err(CbEvalError::Graph(error.to_string()))
    }
}

/// Whether this operation only arranges the values of attention's last product, as the one
/// that makes the head outputs does. BERT's and other graphs call the product with the output
/// projection `kqv_out-<layer>` as well.
fn is_arranged(operation: &CStr) -> bool {
    [c"CONT", c"RESHAPE"].contains(&operation)
}

type ChainedCallback = unsafe extern "C" fn(*mut GgmlTensor, bool, *mut c_void) -> bool;

impl Progress {
    fn fail(&mut self, error: CbEvalError) {
        if self.failed.is_none() {
            crate::log::error(&error);
            self.failed = Some(error);
        }
    }
}
