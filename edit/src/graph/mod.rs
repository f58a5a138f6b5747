//! Edits as nodes of a ggml graph.
//!
//! This is the one implementation of "apply the edits to a graph". It links nothing: the
//! ggml functions that it needs come in a small table, [`GgmlApi`]. Nothing here reads a
//! field of a ggml struct, so it does not depend on ggml's layout.

mod ggml;
mod tables;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

pub use ggml::{
    GgmlApi, GgmlBuffer, GgmlBufferType, GgmlContext, GgmlInitParams, GgmlTableApi, GgmlTensor,
    GGML_TYPE_F32,
};
pub use tables::DeviceTables;

use crate::edit_set::{DenseEdit, EditSet};

/// Why edits could not be brought into a graph.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// No buffer type was given for a layer.
    #[error("layer {layer}: no device buffer for its edit")]
    NoBufferType {
        /// The layer, counted from 0.
        layer: u32,
    },
    /// ggml could not allocate.
    #[error("could not allocate {bytes} bytes for the edits of {layers} layers")]
    Alloc {
        /// Bytes that all rows of the layers take.
        bytes: usize,
        /// Layers that share the buffer.
        layers: usize,
    },
    /// The head outputs of a layer have another width than the edit.
    #[error("layer {layer}: the head outputs are {found} wide, the edit is {expected} wide")]
    Width {
        /// The layer, counted from 0.
        layer: u32,
        /// Width of the edit: heads × head_dim.
        expected: usize,
        /// Width of the graph's tensor.
        found: i64,
    },
    /// The heads of a layer are spread over several devices.
    #[error(
        "layer {layer}: its heads are split over several devices, where an edit cannot follow"
    )]
    SplitHeads {
        /// The layer, counted from 0.
        layer: u32,
    },
    /// The output projection of a layer stands at other places of the graph as well.
    #[error(
        "layer {layer}: the model runs it several times for each token, and an edit is of one run"
    )]
    Looped {
        /// The layer, counted from 0.
        layer: u32,
    },
    /// Layers with edits that the graph never showed.
    #[error("the model's attention never passed the edit of layers {layers:?}: its graph is built another way")]
    NeverFired {
        /// The layers, counted from 0.
        layers: Vec<u32>,
    },
}

/// The rows of one layer on its device; null where the layer has no such row.
#[derive(Debug)]
struct LayerTensors {
    width: usize,
    /// F32 `[head_dim * n_head]`, the whole factors.
    factor: *mut GgmlTensor,
    /// F32 `[head_dim * n_head]`, the offsets.
    add: *mut GgmlTensor,
    fired: AtomicBool,
    mismatch: AtomicBool,
}

impl LayerTensors {
    /// Whether nothing is in device memory yet.
    fn waits(&self) -> bool {
        self.factor.is_null() && self.add.is_null()
    }
}

/// The rows of an [`EditSet`] in device memory, ready to become graph nodes.
///
/// Built once per edit set and context; freed when dropped. Graphs that hold its tensors
/// must not be computed after that.
#[derive(Debug)]
pub struct DeviceEdits {
    api: GgmlApi,
    contexts: Vec<*mut GgmlContext>,
    buffers: Vec<*mut GgmlBuffer>,
    layers: BTreeMap<u32, LayerTensors>,
    /// Width of the last tensor that did not fit, for the error text.
    found_width: AtomicI64,
}

// SAFETY: the pointers are owned by this value. After `upload` the tensors are only read:
// `apply` passes them to ggml as operands, which does not write to operands.
unsafe impl Send for DeviceEdits {}
// SAFETY: as above; what changes after `upload` is atomic.
unsafe impl Sync for DeviceEdits {}

impl DeviceEdits {
    /// Copies the rows of `edits` to the devices of their layers; `buffer_type` names the
    /// plain buffer type of a layer's device, null when there is none.
    ///
    /// # Errors
    /// [`GraphError::NoBufferType`] and [`GraphError::Alloc`]; nothing stays allocated.
    ///
    /// # Safety
    /// The functions of `api` must be those of one ggml, and `buffer_type` must return
    /// buffer types of that ggml.
    pub unsafe fn upload(
        api: GgmlApi,
        edits: &EditSet,
        mut buffer_type: impl FnMut(u32) -> *mut GgmlBufferType,
    ) -> Result<Self, GraphError> {
        let mut device = Self::deferred(api, edits);
        let mut by_type: BTreeMap<*mut GgmlBufferType, Vec<u32>> = BTreeMap::new();
        for &layer in edits.layers.keys() {
            let kind = buffer_type(layer);
            if kind.is_null() {
                return Err(GraphError::NoBufferType { layer });
            }
            by_type.entry(kind).or_default().push(layer);
        }
        for (kind, layers) in by_type {
            // SAFETY: the caller vouches for `api` and `kind`.
            unsafe { device.upload_to(kind, &layers, edits)? };
        }
        Ok(device)
    }

    /// The rows of `edits` with nothing in device memory yet, for a caller who learns where
    /// a layer lives only while its graph is built: each layer waits for
    /// [`Self::upload_layer`].
    pub fn deferred(api: GgmlApi, edits: &EditSet) -> Self {
        let waiting = |edit: &DenseEdit| LayerTensors {
            width: edit.width(),
            factor: std::ptr::null_mut(),
            add: std::ptr::null_mut(),
            fired: AtomicBool::new(false),
            mismatch: AtomicBool::new(false),
        };
        Self {
            api,
            contexts: Vec::new(),
            buffers: Vec::new(),
            layers: edits
                .layers
                .iter()
                .map(|(&layer, edit)| (layer, waiting(edit)))
                .collect(),
            found_width: AtomicI64::new(0),
        }
    }

    /// Whether `layer` has an edit that still waits for [`Self::upload_layer`].
    pub fn waits_for(&self, layer: u32) -> bool {
        self.layers.get(&layer).is_some_and(LayerTensors::waits)
    }

    /// Copies the rows of one layer of [`Self::deferred`] to a buffer of type `kind`.
    ///
    /// # Errors
    /// [`GraphError::NoBufferType`] and [`GraphError::Alloc`]; the layer goes on waiting.
    ///
    /// # Safety
    /// As for [`Self::upload`]; `edits` must be those given to [`Self::deferred`].
    pub unsafe fn upload_layer(
        &mut self,
        edits: &EditSet,
        layer: u32,
        kind: *mut GgmlBufferType,
    ) -> Result<(), GraphError> {
        if kind.is_null() {
            return Err(GraphError::NoBufferType { layer });
        }
        // SAFETY: the caller vouches for `kind`.
        unsafe { self.upload_to(kind, &[layer], edits) }
    }

    /// Overwrites the rows in place when `edits` has rows of the same widths for the same
    /// layers and every layer is in device memory: graphs that hold them stay valid and
    /// apply `edits` from their next computation on. Otherwise changes nothing and returns
    /// false.
    ///
    /// # Safety
    /// As for [`Self::upload`]; no graph that holds the rows may be under computation.
    pub unsafe fn overwrite(&mut self, edits: &EditSet) -> bool {
        let fits = |(layer, edit): (&u32, &DenseEdit)| {
            self.layers.get(layer).is_some_and(|tensors| {
                tensors.width == edit.width()
                    && tensors.factor.is_null() == edit.factor().is_none()
                    && tensors.add.is_null() == edit.add().is_none()
            })
        };
        if edits.layers.len() != self.layers.len() || !edits.layers.iter().all(fits) {
            return false;
        }
        for &layer in edits.layers.keys() {
            // SAFETY: every row of `edits` has a tensor of its size, as checked above.
            unsafe { self.write_rows(edits, layer) };
        }
        true
    }

    /// Forgets which layers have become part of a graph, before graphs are built anew.
    pub fn forget_fired(&self) {
        for tensors in self.layers.values() {
            tensors.fired.store(false, Ordering::Relaxed);
        }
    }

    /// Writes the rows of `layer` to its tensors.
    ///
    /// # Safety
    /// The layer's tensors must be allocated, with one element for each of a row.
    unsafe fn write_rows(&self, edits: &EditSet, layer: u32) {
        let [factor, add] = rows(edits, layer);
        let tensors = &self.layers[&layer];
        for (row, tensor) in [(factor, tensors.factor), (add, tensors.add)] {
            let Some(row) = row else { continue };
            // SAFETY: the tensor has row.len() F32 elements (contract).
            unsafe {
                (self.api.ggml_backend_tensor_set)(
                    tensor,
                    row.as_ptr().cast(),
                    0,
                    std::mem::size_of_val(row),
                );
            }
        }
    }

    /// Allocates and fills the rows of `layers` in one buffer of type `kind`. A failure
    /// leaves those layers waiting.
    ///
    /// # Safety
    /// As for [`Self::upload`].
    unsafe fn upload_to(
        &mut self,
        kind: *mut GgmlBufferType,
        layers: &[u32],
        edits: &EditSet,
    ) -> Result<(), GraphError> {
        let api = self.api;
        let bytes: usize = layers
            .iter()
            .flat_map(|layer| rows(edits, *layer))
            .flatten()
            .map(std::mem::size_of_val)
            .sum();
        let failed = GraphError::Alloc {
            bytes,
            layers: layers.len(),
        };
        // SAFETY: plain calls of ggml's allocation functions; every result is checked.
        let context = unsafe {
            (api.ggml_init)(GgmlInitParams {
                mem_size: 2 * layers.len() * (api.ggml_tensor_overhead)(),
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            })
        };
        if context.is_null() {
            return Err(failed);
        }
        self.contexts.push(context);
        let mut allocated = Vec::with_capacity(layers.len());
        for &layer in layers {
            let [factor, add] = rows(edits, layer);
            let tensor = |row: Option<&[f32]>, what: &str| match row {
                None => std::ptr::null_mut(),
                // SAFETY: `context` has room for two tensors per layer.
                Some(row) => unsafe {
                    let tensor = (api.ggml_new_tensor_1d)(context, GGML_TYPE_F32, row.len() as i64);
                    set_name(&api, tensor, what, layer);
                    tensor
                },
            };
            allocated.push((
                layer,
                tensor(factor, "jola_scale"),
                tensor(add, "jola_offset"),
            ));
        }
        // SAFETY: `context` holds unallocated tensors only, `kind` is a live buffer type.
        let buffer = unsafe { (api.ggml_backend_alloc_ctx_tensors_from_buft)(context, kind) };
        if buffer.is_null() {
            return Err(failed);
        }
        self.buffers.push(buffer);
        for (layer, factor, add) in allocated {
            if let Some(tensors) = self.layers.get_mut(&layer) {
                (tensors.factor, tensors.add) = (factor, add);
            }
            // SAFETY: the layer's tensors were allocated above from these very rows.
            unsafe { self.write_rows(edits, layer) };
        }
        Ok(())
    }

    /// Adds the edit of `layer` to the graph under construction in `graph`: a product and
    /// a sum, each only where the layer has such a row. `cur` is F32
    /// `[head_dim * n_head, n_tokens]`. Returns `cur` itself for a layer without edits and for
    /// one that waits for its rows or has another width, which [`Self::check`] then reports.
    ///
    /// # Safety
    /// `graph` and `cur` must be live objects of the ggml given to [`Self::upload`].
    pub unsafe fn apply(
        &self,
        graph: *mut GgmlContext,
        cur: *mut GgmlTensor,
        layer: u32,
    ) -> *mut GgmlTensor {
        let Some(tensors) = self.layers.get(&layer) else {
            return cur;
        };
        let api = &self.api;
        // SAFETY: `cur` is live; both functions only read its shape.
        let width = unsafe { (api.ggml_nelements)(cur) / (api.ggml_nrows)(cur).max(1) };
        if width != tensors.width as i64 {
            self.found_width.store(width, Ordering::Relaxed);
            tensors.mismatch.store(true, Ordering::Relaxed);
            return cur;
        }
        if tensors.waits() {
            return cur;
        }
        let mut edited = cur;
        if !tensors.factor.is_null() {
            // SAFETY: operands are live, of one type, and the row's width is cur's.
            unsafe {
                edited = (api.ggml_mul)(graph, edited, tensors.factor);
                set_name(api, edited, "kqv_out_scaled", layer);
            }
        }
        if !tensors.add.is_null() {
            // SAFETY: as above.
            unsafe {
                edited = (api.ggml_add)(graph, edited, tensors.add);
                set_name(api, edited, "kqv_out_offset", layer);
            }
        }
        tensors.fired.store(true, Ordering::Relaxed);
        edited
    }

    /// Whether every layer's edit has become part of a graph since [`Self::upload`].
    ///
    /// # Errors
    /// [`GraphError::Width`] and [`GraphError::NeverFired`].
    pub fn check(&self) -> Result<(), GraphError> {
        let state = |flag: fn(&LayerTensors) -> &AtomicBool, want: bool| {
            let hit = move |t: &LayerTensors| flag(t).load(Ordering::Relaxed) == want;
            self.layers.iter().filter(move |(_, tensors)| hit(tensors))
        };
        if let Some((&layer, tensors)) = state(|t| &t.mismatch, true).next() {
            return Err(GraphError::Width {
                layer,
                expected: tensors.width,
                found: self.found_width.load(Ordering::Relaxed),
            });
        }
        let layers: Vec<u32> = state(|t| &t.fired, false)
            .map(|(&layer, _)| layer)
            .collect();
        if layers.is_empty() {
            Ok(())
        } else {
            Err(GraphError::NeverFired { layers })
        }
    }
}

impl Drop for DeviceEdits {
    fn drop(&mut self) {
        for &buffer in &self.buffers {
            // SAFETY: allocated by `upload_to`, freed once.
            unsafe { (self.api.ggml_backend_buffer_free)(buffer) };
        }
        for &context in &self.contexts {
            // SAFETY: created by `upload_to`, freed once, after its tensors' buffers.
            unsafe { (self.api.ggml_free)(context) };
        }
    }
}

/// The factor row and the offset row of a layer.
fn rows(edits: &EditSet, layer: u32) -> [Option<&[f32]>; 2] {
    let edit = &edits.layers[&layer];
    [edit.factor(), edit.add()]
}

/// Names a tensor `<what>-<layer>`, as llama.cpp names its own.
///
/// # Safety
/// `tensor` must be a live tensor of the ggml behind `api`.
unsafe fn set_name(api: &GgmlApi, tensor: *mut GgmlTensor, what: &str, layer: u32) {
    let name = CString::new(format!("{what}-{layer}")).expect("no NUL in a tensor name");
    // SAFETY: ggml copies the name.
    unsafe { (api.ggml_set_name)(tensor, name.as_ptr()) };
}
