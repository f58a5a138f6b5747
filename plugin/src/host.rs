//! The llama.cpp of the host process: its functions, and where its tensors live.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

use jola_edit::function_table;
use jola_edit::graph::{
    GgmlApi, GgmlBuffer, GgmlBufferType, GgmlInitParams, GgmlTensor, GGML_TYPE_F32,
};

use crate::resolve::{beside, next, object_of, ResolveError};

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub struct $name {
            _opaque: [u8; 0],
        }
    )*};
}

opaque! {
    /// `struct llama_model`, only ever behind a pointer.
    LlamaModel,
    /// `struct llama_context`, only ever behind a pointer.
    LlamaContext,
    /// What `llama_memory_t` points to.
    LlamaMemory,
    /// `struct llama_batch_ext`, only ever behind a pointer.
    LlamaBatchExt,
    /// `struct llama_adapter_lora`, only ever behind a pointer.
    LlamaAdapter,
    /// `struct ggml_backend_device`, only ever behind a pointer.
    GgmlDevice,
}

/// A struct that llama.cpp passes by value and that differs between its versions, passed on
/// untouched. Larger than any of them: what lies behind the real one is the caller's stack
/// frame, copied along and looked at by nobody.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ByValue([u64; 64]);

impl ByValue {
    /// A struct of zeros.
    pub const ZERO: Self = Self([0; 64]);
}

function_table! {
    /// The functions that work on a context.
    pub struct LlamaApi {
        llama_decode: unsafe extern "C-unwind" fn(*mut LlamaContext, ByValue) -> i32,
        llama_encode: unsafe extern "C-unwind" fn(*mut LlamaContext, ByValue) -> i32,
        llama_free: unsafe extern "C" fn(*mut LlamaContext),
        llama_synchronize: unsafe extern "C" fn(*mut LlamaContext),
        llama_get_memory: unsafe extern "C" fn(*const LlamaContext) -> *mut LlamaMemory,
        llama_n_batch: unsafe extern "C" fn(*const LlamaContext) -> u32,
        llama_n_seq_max: unsafe extern "C" fn(*const LlamaContext) -> u32,
        llama_pooling_type: unsafe extern "C" fn(*const LlamaContext) -> c_int,
        llama_set_adapter_cvec: unsafe extern "C" fn(*mut LlamaContext, *const f32, usize, i32, i32, i32) -> i32,
    }
}

function_table! {
    /// The functions that load adapters and give them to contexts.
    pub struct AdapterApi {
        llama_adapter_lora_init: unsafe extern "C-unwind" fn(*mut LlamaModel, *const c_char) -> *mut LlamaAdapter,
        llama_adapter_lora_free: unsafe extern "C-unwind" fn(*mut LlamaAdapter),
        llama_set_adapters_lora: unsafe extern "C-unwind" fn(*mut LlamaContext, *mut *mut LlamaAdapter, usize, *mut f32) -> i32,
    }
}

function_table! {
    /// The functions that change which cells belong to which sequence.
    pub struct MemoryApi {
        llama_memory_clear: unsafe extern "C-unwind" fn(*mut LlamaMemory, bool),
        llama_memory_seq_rm: unsafe extern "C-unwind" fn(*mut LlamaMemory, i32, i32, i32) -> bool,
        llama_memory_seq_cp: unsafe extern "C-unwind" fn(*mut LlamaMemory, i32, i32, i32, i32),
        llama_memory_seq_keep: unsafe extern "C-unwind" fn(*mut LlamaMemory, i32),
        llama_memory_seq_add: unsafe extern "C-unwind" fn(*mut LlamaMemory, i32, i32, i32, i32),
        llama_memory_seq_div: unsafe extern "C-unwind" fn(*mut LlamaMemory, i32, i32, i32, c_int),
        llama_memory_seq_pos_max: unsafe extern "C-unwind" fn(*mut LlamaMemory, i32) -> i32,
    }
}

function_table! {
    /// The functions that save and load cells.
    pub struct StateApi {
        llama_state_get_size: unsafe extern "C-unwind" fn(*mut LlamaContext) -> usize,
        llama_state_get_data: unsafe extern "C-unwind" fn(*mut LlamaContext, *mut u8, usize) -> usize,
        llama_state_set_data: unsafe extern "C-unwind" fn(*mut LlamaContext, *const u8, usize) -> usize,
        llama_state_save_file: unsafe extern "C-unwind" fn(*mut LlamaContext, *const c_char, *const i32, usize) -> bool,
        llama_state_load_file: unsafe extern "C-unwind" fn(*mut LlamaContext, *const c_char, *mut i32, usize, *mut usize) -> bool,
        llama_state_seq_get_size_ext: unsafe extern "C-unwind" fn(*mut LlamaContext, i32, u32) -> usize,
        llama_state_seq_get_data_ext: unsafe extern "C-unwind" fn(*mut LlamaContext, *mut u8, usize, i32, u32) -> usize,
        llama_state_seq_set_data_ext: unsafe extern "C-unwind" fn(*mut LlamaContext, *const u8, usize, i32, u32) -> usize,
        llama_state_seq_save_file: unsafe extern "C-unwind" fn(*mut LlamaContext, *const c_char, i32, *const i32, usize) -> usize,
        llama_state_seq_load_file: unsafe extern "C-unwind" fn(*mut LlamaContext, *const c_char, i32, *mut i32, usize, *mut usize) -> usize,
    }
}

function_table! {
    /// The functions that tell about a model.
    pub struct ModelApi {
        llama_model_meta_val_str: unsafe extern "C" fn(*const LlamaModel, *const c_char, *mut c_char, usize) -> i32,
        llama_model_has_encoder: unsafe extern "C" fn(*const LlamaModel) -> bool,
        llama_model_has_decoder: unsafe extern "C" fn(*const LlamaModel) -> bool,
    }
}

function_table! {
    /// The ggml functions that tell where a weight lives.
    pub struct PlacementApi {
        ggml_get_data: unsafe extern "C" fn(*const GgmlTensor) -> *mut c_void,
        ggml_backend_cpu_buffer_type: unsafe extern "C" fn() -> *mut GgmlBufferType,
        ggml_backend_buffer_is_host: unsafe extern "C" fn(*mut GgmlBuffer) -> bool,
        ggml_backend_buffer_get_size: unsafe extern "C" fn(*mut GgmlBuffer) -> usize,
        ggml_backend_buffer_get_type: unsafe extern "C" fn(*mut GgmlBuffer) -> *mut GgmlBufferType,
        ggml_backend_buft_get_device: unsafe extern "C" fn(*mut GgmlBufferType) -> *mut GgmlDevice,
        ggml_backend_buft_name: unsafe extern "C" fn(*mut GgmlBufferType) -> *const c_char,
        ggml_backend_dev_type: unsafe extern "C" fn(*mut GgmlDevice) -> c_int,
        ggml_backend_dev_buffer_type: unsafe extern "C" fn(*mut GgmlDevice) -> *mut GgmlBufferType,
    }
}

function_table! {
    /// The functions that fill a batch of the newer type, which only they can read.
    pub struct BatchApi {
        llama_batch_ext_init: unsafe extern "C-unwind" fn(*mut LlamaContext) -> *mut LlamaBatchExt,
        llama_batch_ext_free: unsafe extern "C-unwind" fn(*mut LlamaBatchExt),
        llama_batch_ext_clear: unsafe extern "C-unwind" fn(*mut LlamaBatchExt),
        llama_batch_ext_add: unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32) -> i32,
        llama_batch_ext_add_token: unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, i32) -> i32,
        llama_batch_ext_add_embd: unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, ByValue) -> i32,
        llama_batch_ext_add_seq: unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, i32) -> bool,
        llama_batch_ext_set_embd_token: unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, ByValue) -> bool,
        llama_batch_ext_set_embd_state: unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, ByValue) -> bool,
        llama_batch_ext_set_pos: unsafe extern "C-unwind" fn(*mut LlamaBatchExt, i32, *const i32) -> bool,
    }
}

/// Why a llama.cpp cannot be worked with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    /// A function is missing.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// `struct ggml_tensor` is laid out another way.
    #[error("this ggml keeps a tensor's buffer in another place than expected")]
    Layout,
}

/// `llama_process`, with an enum and a pointer to a batch.
pub type Process = unsafe extern "C-unwind" fn(*mut LlamaContext, c_int, *mut c_void) -> i32;

/// One loaded llama.cpp with its ggml.
pub struct Host {
    /// What its llama.cpp does with contexts.
    pub llama: LlamaApi,
    /// What it does with adapters.
    pub adapter: AdapterApi,
    /// What it does with cells.
    pub memory: MemoryApi,
    /// What it does with saved cells.
    pub state: StateApi,
    /// What its llama.cpp tells about models.
    pub model: ModelApi,
    /// Its `llama_process`; older ones have none.
    pub process: Option<Process>,
    /// How batches of the newer type are filled; older ones have none.
    pub batch: Option<BatchApi>,
    /// What its ggml does with tensors and graphs.
    pub ggml: GgmlApi,
    placement: PlacementApi,
}

/// Offset of `buffer` in `struct ggml_tensor`: behind `type`, in every ggml with backends.
/// Proven for each ggml before it is used.
const BUFFER_OFFSET: usize = 8;

/// `GGML_BACKEND_DEVICE_TYPE_META`: several devices that share each tensor.
const DEVICE_TYPE_META: c_int = 4;

/// The memory that a weight lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightMemory {
    /// Nowhere yet: the model was loaded without its weights, to measure it.
    Unallocated,
    /// On a device with this plain buffer type.
    Device(*mut GgmlBufferType),
    /// In parts, on several devices.
    Split,
}

impl Host {
    /// The llama.cpp that `function`, one of its addresses, belongs to.
    ///
    /// # Errors
    /// Any [`HostError`], again at each call.
    pub fn of(function: usize) -> Result<&'static Self, HostError> {
        type Hosts = Mutex<HashMap<usize, Result<&'static Host, HostError>>>;
        static HOSTS: OnceLock<Hosts> = OnceLock::new();
        let base = object_of(function).map_or(0, |(base, _)| base);
        let hosts = HOSTS.get_or_init(Hosts::default);
        let mut hosts = hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts
            .entry(base)
            .or_insert_with(|| Self::find(function).map(|host| &*Box::leak(Box::new(host))))
            .clone()
    }

    fn find(function: usize) -> Result<Self, HostError> {
        let find = |name: &CStr| {
            let found = next(name).or_else(|| beside(function, name));
            found.ok_or_else(|| ResolveError::Missing {
                name: name.to_string_lossy().into_owned(),
            })
        };
        let process = find(c"llama_process").ok();
        // SAFETY: the functions of these names have these types in every llama.cpp that has
        // them.
        let host = unsafe {
            Self {
                model: ModelApi::find(find)?,
                llama: LlamaApi::find(find)?,
                adapter: AdapterApi::find(find)?,
                memory: MemoryApi::find(find)?,
                state: StateApi::find(find)?,
                process: process.map(|process| std::mem::transmute::<usize, Process>(process)),
                batch: BatchApi::find(find).ok(),
                ggml: GgmlApi::find(find)?,
                placement: PlacementApi::find(find)?,
            }
        };
        // SAFETY: the functions are those of one ggml.
        if !unsafe { host.buffer_offset_holds() } {
            return Err(HostError::Layout);
        }
        Ok(host)
    }

    /// Whether a fresh tensor's buffer stands at [`BUFFER_OFFSET`].
    ///
    /// # Safety
    /// The functions of `self` must be those of one ggml.
    unsafe fn buffer_offset_holds(&self) -> bool {
        let ggml = &self.ggml;
        // SAFETY: plain use of ggml's allocation functions; results are checked. The tensor
        // is far longer than BUFFER_OFFSET + 8 bytes: its name alone takes 64.
        unsafe {
            let context = (ggml.ggml_init)(GgmlInitParams {
                mem_size: (ggml.ggml_tensor_overhead)(),
                mem_buffer: null_mut(),
                no_alloc: true,
            });
            if context.is_null() {
                return false;
            }
            let tensor = (ggml.ggml_new_tensor_1d)(context, GGML_TYPE_F32, 1);
            let before = buffer_of(tensor);
            let kind = (self.placement.ggml_backend_cpu_buffer_type)();
            let buffer = (ggml.ggml_backend_alloc_ctx_tensors_from_buft)(context, kind);
            let after = buffer_of(tensor);
            if !buffer.is_null() {
                (ggml.ggml_backend_buffer_free)(buffer);
            }
            (ggml.ggml_free)(context);
            before.is_null() && !buffer.is_null() && after == buffer
        }
    }

    /// The memory that `weight` lives in. Plain memory of its device is named even when the
    /// weight itself is in a special buffer (repacked, mapped, pinned), which could not hold
    /// other tensors.
    ///
    /// # Safety
    /// `weight` must be a live weight of this host.
    pub unsafe fn memory_of(&self, weight: *const GgmlTensor) -> WeightMemory {
        let api = &self.placement;
        // SAFETY: `weight` is live, so its buffer is null or live, and so are the buffer's
        // type and the type's device.
        unsafe {
            let buffer = buffer_of(weight);
            if buffer.is_null()
                || (api.ggml_get_data)(weight).is_null()
                || (api.ggml_backend_buffer_get_size)(buffer) == 0
            {
                return WeightMemory::Unallocated;
            }
            let kind = (api.ggml_backend_buffer_get_type)(buffer);
            let device = (api.ggml_backend_buft_get_device)(kind);
            if !device.is_null() && (api.ggml_backend_dev_type)(device) == DEVICE_TYPE_META {
                return WeightMemory::Split;
            }
            WeightMemory::Device(
                if device.is_null() || (api.ggml_backend_buffer_is_host)(buffer) {
                    (api.ggml_backend_cpu_buffer_type)()
                } else {
                    (api.ggml_backend_dev_buffer_type)(device)
                },
            )
        }
    }

    /// The name of a buffer type, for messages.
    ///
    /// # Safety
    /// `kind` must be a buffer type of this host.
    pub unsafe fn buffer_type_name(&self, kind: *mut GgmlBufferType) -> String {
        // SAFETY: ggml returns a NUL-terminated text that lives as long as the type.
        let name = unsafe { CStr::from_ptr((self.placement.ggml_backend_buft_name)(kind)) };
        name.to_string_lossy().into_owned()
    }
}

/// The field `buffer` of a tensor.
///
/// # Safety
/// `tensor` must be a live tensor of a ggml for which [`BUFFER_OFFSET`] holds or is being
/// tried.
unsafe fn buffer_of(tensor: *const GgmlTensor) -> *mut GgmlBuffer {
    // SAFETY: the struct is longer than BUFFER_OFFSET + 8 bytes, and malloc'd memory of ggml
    // is aligned for pointers.
    unsafe {
        tensor
            .cast::<u8>()
            .add(BUFFER_OFFSET)
            .cast::<*mut GgmlBuffer>()
            .read()
    }
}
