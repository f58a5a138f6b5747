//! The edits of one context, and how they get into its graphs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jola_edit::graph::{DeviceEdits, GgmlBufferType, GgmlContext, GgmlTensor, GraphError};
use jola_edit::{ComposeError, EditSet};

use crate::adapters;
use crate::control_vector::ControlVector;
use crate::host::{Host, LlamaModel, WeightMemory};
use crate::operand::{unrotated, Product};
use crate::request::{enabled, names, Digest, Request, Sources};
use crate::rows::widened;
use crate::sequences::{Sequences, Tag};
use crate::shape::ShapeError;

/// Why a context cannot have the edits that were asked for.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// They are for another model.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// They do not go together.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// They did not become part of the graph.
    #[error("{files}: {error}{}", advice(error))]
    Graph {
        /// The sidecars' paths.
        files: String,
        /// What kept them out of it.
        error: GraphError,
    },
    /// llama.cpp went on with a graph that it built for other edits.
    #[error("llama.cpp did not rebuild its graph after the edits were changed")]
    NotRebuilt,
}

/// What users of llama.cpp's programs can do about an error.
fn advice(error: &GraphError) -> &'static str {
    match error {
        GraphError::SplitHeads { .. } => "; use --split-mode layer in place of --split-mode tensor",
        _ => "",
    }
}

/// A layer's projection as the graphs showed it.
struct SeenLayer {
    width: i64,
    buffer_type: *mut GgmlBufferType,
}

/// What a context's graphs are built with. Its lock is held while a layer is edited.
#[derive(Default)]
pub(crate) struct Inner {
    /// The edits of `LLAMA_JOLA` or the C API, which every request gets.
    pub(crate) request: Option<Arc<Request>>,
    /// The sidecars that the host set as adapters, beside them.
    pub(crate) stand_ins: Sources,
    /// The real LoRAs that it set.
    pub(crate) loras: Vec<(Digest, f32)>,
    /// The rows of all of these.
    pub(crate) edits: EditSet,
    /// The rows in device memory, of `edits`.
    pub(crate) device: Option<DeviceEdits>,
    /// Rows that older graphs of the context may still hold; reused where they fit.
    pub(crate) retired: Vec<DeviceEdits>,
    /// Head outputs of the last projection and their edited form: a LoRA of the same layer
    /// multiplies them again.
    last: Option<(*mut GgmlContext, *mut GgmlTensor, *mut GgmlTensor)>,
    /// Layers with weights in memory.
    seen: BTreeMap<u32, SeenLayer>,
    /// A graph was built on weights that are not in memory.
    measured: bool,
    /// A graph was built since the edits were changed.
    pub(crate) built: bool,
    /// How many graphs were built: each goes through the layers in their order.
    pub(crate) graphs: u64,
    last_layer: u32,
    /// The first failure while a graph was built.
    failed: Option<GraphError>,
    /// Why the edits that the host asked for last could not be had.
    pub(crate) refused: Option<String>,
    pub(crate) control_vector: Option<ControlVector>,
}

// SAFETY: the pointers are ggml objects that are only used by the thread that builds the
// context's graph, under the lock.
unsafe impl Send for Inner {}

/// A context that the plugin follows.
pub struct ContextState {
    /// The llama.cpp that created the context.
    pub host: &'static Host,
    /// Its model.
    pub model: *mut LlamaModel,
    inner: Mutex<Inner>,
    sequences: Mutex<Sequences>,
    /// The edits were changed and no decode has succeeded since.
    pub(crate) changed: AtomicBool,
    /// The context's creation is over: it is no longer under construction.
    created: AtomicBool,
    /// Edits were wanted, or might be, when it was created.
    expected: bool,
}

// SAFETY: `model` is only used while the context, which needs it, is alive.
unsafe impl Send for ContextState {}
// SAFETY: as above; everything that changes is atomic or locked.
unsafe impl Sync for ContextState {}

/// Status of a context after its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every requested layer is edited, or nothing was requested.
    Ready,
    /// The context only measures a model whose weights are not in memory.
    Measured,
    /// The graph has none of the requested layers.
    NoLayer,
}

impl ContextState {
    /// The state of a context of `model` that is about to be created, to be edited as
    /// `request` says and as sidecars that are loaded as the model's adapters will.
    pub fn new(host: &'static Host, model: *mut LlamaModel, request: Option<Arc<Request>>) -> Self {
        let state = Self {
            host,
            model,
            inner: Mutex::default(),
            sequences: Mutex::default(),
            changed: AtomicBool::new(false),
            created: AtomicBool::new(false),
            expected: enabled(),
        };
        let mut inner = state.lock();
        let edits = request.as_ref().map(|request| request.edits.clone());
        inner.edits = state.with_room(edits.unwrap_or_default());
        inner.request = request;
        if !inner.edits.is_empty() {
            inner.device = Some(DeviceEdits::deferred(host.ggml, &inner.edits));
        }
        drop(inner);
        state
    }

    /// `edits` with rows for every sidecar that the host may choose for this model.
    pub(crate) fn with_room(&self, edits: EditSet) -> EditSet {
        let sources = adapters::of_model(self.model);
        widened(edits, sources.iter().map(|source| &source.sidecar))
    }

    /// Whether the context exists, or is still under construction.
    pub fn is_created(&self) -> bool {
        self.created.load(Ordering::Relaxed)
    }

    /// The context exists now.
    pub fn finish_creation(&self) {
        self.created.store(true, Ordering::Relaxed);
    }

    /// Whether edits were wanted, or might be, when the context was created.
    pub fn was_expected(&self) -> bool {
        self.expected
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sequences that have cells.
    pub fn sequences(&self) -> MutexGuard<'_, Sequences> {
        self.sequences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The operand that takes the place of `b` in the product `a × b` of the graph under
    /// construction.
    ///
    /// # Safety
    /// `graph`, `a` and `b` must be live objects of the host's ggml.
    pub unsafe fn operand(
        &self,
        product: Product,
        graph: *mut GgmlContext,
        a: *mut GgmlTensor,
        b: *mut GgmlTensor,
    ) -> *mut GgmlTensor {
        let inner = &mut *self.lock();
        match product {
            // SAFETY: the caller vouches for the pointers.
            Product::Projection(layer) => unsafe { self.project(inner, layer, graph, a, b) },
            // The projection's own product comes first in every build of a graph, so an
            // entry of this very operand is of this very build.
            Product::Lora(_) => match inner.last {
                Some((of, cur, edited)) if of == graph && cur == b => edited,
                _ => b,
            },
            Product::OtherRun(layer) => {
                if inner.edits.layers.contains_key(&layer) {
                    inner.failed.get_or_insert(GraphError::Looped { layer });
                }
                b
            }
            Product::Rotation(_) => b,
        }
    }

    /// # Safety
    /// As for [`Self::operand`].
    unsafe fn project(
        &self,
        inner: &mut Inner,
        layer: u32,
        graph: *mut GgmlContext,
        weight: *mut GgmlTensor,
        cur: *mut GgmlTensor,
    ) -> *mut GgmlTensor {
        let ggml = &self.host.ggml;
        if !inner.built || layer <= inner.last_layer {
            inner.graphs += 1;
        }
        inner.last_layer = layer;
        inner.built = true;
        inner.last = None;
        // SAFETY: the caller vouches for the pointers.
        let (memory, width) = unsafe {
            let rows = (ggml.ggml_nrows)(cur).max(1);
            (
                self.host.memory_of(weight),
                (ggml.ggml_nelements)(cur) / rows,
            )
        };
        let buffer_type = match memory {
            WeightMemory::Device(buffer_type) => buffer_type,
            WeightMemory::Unallocated => {
                inner.measured = true;
                return cur;
            }
            WeightMemory::Split => {
                if inner.edits.layers.contains_key(&layer) {
                    inner.failed.get_or_insert(GraphError::SplitHeads { layer });
                }
                return cur;
            }
        };
        inner.seen.insert(layer, SeenLayer { width, buffer_type });
        let Some(device) = &mut inner.device else {
            return cur;
        };
        if device.waits_for(layer) {
            // SAFETY: the buffer type is of this host, the edits are those of `device`.
            let uploaded = unsafe { device.upload_layer(&inner.edits, layer, buffer_type) };
            if let Err(error) = uploaded {
                inner.failed.get_or_insert(error);
                return cur;
            }
            // SAFETY: the buffer type is of this host.
            let name = unsafe { self.host.buffer_type_name(buffer_type) };
            crate::log::debug(format_args!("layer {layer}: edit in {name}"));
        }
        // SAFETY: the caller vouches for the pointers.
        let edited = unsafe { device.apply(graph, cur, layer) };
        inner.last = Some((graph, cur, edited));
        edited
    }

    /// Gives the product of a cache's rotation the name by which the projection is told.
    ///
    /// # Safety
    /// `product` must be a live tensor of the host's ggml.
    pub unsafe fn name_unrotated(&self, product: *mut GgmlTensor, layer: u32) {
        let name = unrotated(layer) + "\0";
        // SAFETY: ggml copies the name, which is NUL-terminated.
        unsafe { (self.host.ggml.ggml_set_name)(product, name.as_ptr().cast()) };
    }

    /// What became of the edits in the graphs that were built so far.
    ///
    /// # Errors
    /// [`StateError::Graph`].
    pub fn outcome(&self) -> Result<Outcome, StateError> {
        let mut inner = self.lock();
        let failed = inner.failed.take();
        let Some(device) = &inner.device else {
            return Ok(Outcome::Ready);
        };
        if inner.seen.is_empty() && inner.measured {
            return Ok(Outcome::Measured);
        }
        let touches = |layer| inner.seen.contains_key(layer);
        if failed.is_none() && !inner.edits.layers.keys().any(touches) {
            return Ok(Outcome::NoLayer);
        }
        failed
            .map_or_else(|| device.check(), Err)
            .map_err(|error| self.graph_error(&inner, error))?;
        Ok(Outcome::Ready)
    }

    /// The error of [`Outcome::NoLayer`].
    pub fn no_layer_error(&self) -> StateError {
        let inner = self.lock();
        let layers = inner.edits.layers.keys().copied().collect();
        self.graph_error(&inner, GraphError::NeverFired { layers })
    }

    pub(crate) fn graph_error(&self, inner: &Inner, error: GraphError) -> StateError {
        StateError::Graph {
            files: self.files(inner),
            error,
        }
    }

    /// The files whose rows the context has.
    fn files(&self, inner: &Inner) -> String {
        let request = inner.request.iter().flat_map(|r| r.sidecars.clone());
        let loaded = adapters::of_model(self.model);
        let loaded = loaded.into_iter().map(|source| (source, 1.0));
        names(&request.chain(loaded).collect::<Sources>())
    }

    /// What is edited, for a log; nothing if no layer is.
    pub fn describe(&self) -> Option<String> {
        let inner = self.lock();
        let layers = inner.edits.layers.len();
        (layers > 0).then(|| format!("{}: {layers} layers edited", self.files(&inner)))
    }

    /// Leaves the context without edits.
    pub fn give_up(&self) {
        let mut inner = self.lock();
        inner.request = None;
        inner.edits = EditSet::default();
        let device = inner.device.take();
        inner.retired.extend(device);
    }
}

impl Inner {
    /// What the graphs compute under now.
    pub(crate) fn tag(&self) -> Tag {
        let request = self.request.iter().flat_map(|request| &request.sidecars);
        let sidecars = request.chain(&self.stand_ins);
        let sidecars = sidecars.map(|(source, strength)| (&source.digest, *strength));
        let loras = self.loras.iter().map(|(digest, scale)| (digest, *scale));
        Tag::of(sidecars.chain(loras))
    }

    /// The layers of `edits` that no graph has shown.
    pub(crate) fn unseen(&self, edits: &EditSet) -> Vec<u32> {
        let layers = edits.layers.keys().copied();
        layers
            .filter(|layer| !self.seen.contains_key(layer))
            .collect()
    }

    /// Whether graphs were built that showed any layer.
    pub(crate) fn has_seen(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Width of a layer's head outputs, and plain memory of its device.
    pub(crate) fn place(&self, layer: u32) -> (i64, *mut GgmlBufferType) {
        let seen = &self.seen[&layer];
        (seen.width, seen.buffer_type)
    }
}
