//! The edits of one context, and the contexts of the process.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jola_edit::graph::{DeviceEdits, GgmlBufferType, GgmlContext, GgmlTensor, GraphError};
use jola_edit::EditSet;

use crate::host::{Host, LlamaContext, LlamaModel, WeightMemory};
use crate::operand::{unrotated, Product};
use crate::request::Request;
use crate::shape::{self, ShapeError};
use crate::usage;

/// Why a context cannot have the edits that were asked for.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// They are for another model.
    #[error(transparent)]
    Shape(#[from] ShapeError),
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

/// A control vector, as `llama_set_adapter_cvec` was given it.
struct ControlVector {
    data: Vec<f32>,
    n_embd: i32,
    il_start: i32,
    il_end: i32,
}

/// A layer's projection as the graphs showed it.
struct SeenLayer {
    width: i64,
    buffer_type: *mut GgmlBufferType,
}

/// What a context's graphs are built with. Its lock is held while a layer is edited.
#[derive(Default)]
struct Inner {
    request: Option<Arc<Request>>,
    /// The rows in device memory, of `request`.
    device: Option<DeviceEdits>,
    /// Rows that older graphs of the context may still hold; reused where they fit.
    retired: Vec<DeviceEdits>,
    /// Head outputs of the last projection and their edited form: a LoRA of the same layer
    /// multiplies them again.
    last: Option<(*mut GgmlContext, *mut GgmlTensor, *mut GgmlTensor)>,
    /// Layers with weights in memory.
    seen: BTreeMap<u32, SeenLayer>,
    /// A graph was built on weights that are not in memory.
    measured: bool,
    /// A graph was built since the edits were changed.
    built: bool,
    /// The first failure while a graph was built.
    failed: Option<GraphError>,
    control_vector: Option<ControlVector>,
}

// SAFETY: the pointers are ggml objects that are only used by the thread that builds the
// context's graph, under the lock.
unsafe impl Send for Inner {}

/// A context that the plugin follows.
pub struct ContextState {
    /// The llama.cpp that created the context.
    pub host: &'static Host,
    model: *mut LlamaModel,
    inner: Mutex<Inner>,
    /// The edits were changed and no decode has succeeded since.
    changed: AtomicBool,
    /// The context's creation is over: it is no longer under construction.
    created: AtomicBool,
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
    /// `request` says.
    pub fn new(host: &'static Host, model: *mut LlamaModel, request: Option<Arc<Request>>) -> Self {
        let device = request
            .as_ref()
            .map(|request| DeviceEdits::deferred(host.ggml, &request.edits));
        Self {
            host,
            model,
            inner: Mutex::new(Inner {
                request,
                device,
                ..Inner::default()
            }),
            changed: AtomicBool::new(false),
            created: AtomicBool::new(false),
        }
    }

    /// Whether the context exists, or is still under construction.
    pub fn is_created(&self) -> bool {
        self.created.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
                let edited = |r: &Arc<Request>| r.edits.layers.contains_key(&layer);
                if inner.request.as_ref().is_some_and(edited) {
                    inner.failed.get_or_insert(GraphError::SplitHeads { layer });
                }
                return cur;
            }
        };
        inner.seen.insert(layer, SeenLayer { width, buffer_type });
        let (Some(request), Some(device)) = (&inner.request, &mut inner.device) else {
            return cur;
        };
        if device.waits_for(layer) {
            // SAFETY: the buffer type is of this host, the edits are those of `device`.
            let uploaded = unsafe { device.upload_layer(&request.edits, layer, buffer_type) };
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
        let (Some(request), Some(device)) = (&inner.request, &inner.device) else {
            return Ok(Outcome::Ready);
        };
        if request.edits.is_empty() {
            return Ok(Outcome::Ready);
        }
        if inner.seen.is_empty() && inner.measured {
            return Ok(Outcome::Measured);
        }
        let touches = |layer| inner.seen.contains_key(layer);
        if failed.is_none() && !request.edits.layers.keys().any(touches) {
            return Ok(Outcome::NoLayer);
        }
        failed
            .map_or_else(|| device.check(), Err)
            .map_err(|error| {
                let files = request.names();
                StateError::Graph { files, error }
            })?;
        Ok(Outcome::Ready)
    }

    /// The error of [`Outcome::NoLayer`].
    pub fn no_layer_error(&self) -> StateError {
        let inner = self.lock();
        let layers = |r: &Arc<Request>| r.edits.layers.keys().copied().collect();
        StateError::Graph {
            files: inner
                .request
                .as_ref()
                .map_or_else(String::new, |r| r.names()),
            error: GraphError::NeverFired {
                layers: inner.request.as_ref().map_or_else(Vec::new, layers),
            },
        }
    }

    /// Leaves the context without edits.
    pub fn give_up(&self) {
        let mut inner = self.lock();
        inner.request = None;
        let device = inner.device.take();
        inner.retired.extend(device);
    }

    /// Changes the edits of a context that exists, drops its cached keys and values, which
    /// other edits made, and has its graphs rebuilt where the rows cannot be overwritten.
    ///
    /// # Errors
    /// Any [`StateError`]; the context then has the edits that it had.
    ///
    /// # Safety
    /// `context` must be this state's context, alive and used by no other thread.
    pub unsafe fn change(
        &self,
        context: *mut LlamaContext,
        request: Option<Arc<Request>>,
    ) -> Result<(), StateError> {
        let llama = &self.host.llama;
        let request = request.filter(|request| !request.edits.is_empty());
        let inner = &mut *self.lock();
        let mut device = None;
        // SAFETY: the model lives as long as its context; the rows are written when no
        // graph is under computation.
        unsafe {
            if let Some(request) = &request {
                shape::check(self.host.model, self.model, request)?;
                usage::tell(self.host.model, self.model, request);
            }
            (llama.llama_synchronize)(context);
            let overwritten = match (&request, &mut inner.device) {
                (Some(request), Some(device)) => device.overwrite(&request.edits),
                (None, device) => device.is_none(),
                (Some(_), None) => false,
            };
            if !overwritten {
                if let Some(request) = &request {
                    device = Some(self.upload(inner, &request.edits).map_err(|error| {
                        StateError::Graph {
                            files: request.names(),
                            error,
                        }
                    })?);
                }
                inner.retired.extend(inner.device.take());
                inner.device = device;
                inner.built = false;
                inner.force_rebuild(self.host, context);
                self.changed.store(true, Ordering::Release);
            }
            inner.request = request;
            let memory = (llama.llama_get_memory)(context);
            if !memory.is_null() {
                (llama.llama_memory_clear)(memory, true);
            }
        }
        Ok(())
    }

    /// Brings edits into the memory of the layers that the graphs showed, into rows of
    /// older edits where they fit.
    ///
    /// # Safety
    /// No graph of the context may be under computation.
    unsafe fn upload(&self, inner: &mut Inner, edits: &EditSet) -> Result<DeviceEdits, GraphError> {
        let absent: Vec<u32> = edits
            .layers
            .keys()
            .copied()
            .filter(|layer| !inner.seen.contains_key(layer))
            .collect();
        if !absent.is_empty() {
            return Err(GraphError::NeverFired { layers: absent });
        }
        for (&layer, edit) in &edits.layers {
            let found = inner.seen[&layer].width;
            if found != edit.width() as i64 {
                return Err(GraphError::Width {
                    layer,
                    expected: edit.width(),
                    found,
                });
            }
        }
        for i in 0..inner.retired.len() {
            // SAFETY: nothing is under computation (contract).
            if unsafe { inner.retired[i].overwrite(edits) } {
                let device = inner.retired.swap_remove(i);
                device.forget_fired();
                return Ok(device);
            }
        }
        // SAFETY: the buffer types were seen in this host.
        unsafe {
            DeviceEdits::upload(self.host.ggml, edits, |layer| {
                inner.seen[&layer].buffer_type
            })
        }
    }

    /// To be called when a decode has succeeded: whether changed edits took part in it.
    ///
    /// # Errors
    /// [`StateError::NotRebuilt`], [`StateError::Graph`].
    pub fn after_compute(&self) -> Result<(), StateError> {
        if !self.changed.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.lock().built {
            return Err(StateError::NotRebuilt);
        }
        match self.outcome()? {
            Outcome::NoLayer => Err(self.no_layer_error()),
            Outcome::Ready | Outcome::Measured => {
                self.changed.store(false, Ordering::Release);
                Ok(())
            }
        }
    }

    /// Remembers the user's control vector, which [`Self::change`] has to set again.
    pub fn remember_control_vector(&self, data: &[f32], n_embd: i32, il_start: i32, il_end: i32) {
        self.lock().control_vector = (!data.is_empty()).then(|| ControlVector {
            data: data.to_vec(),
            n_embd,
            il_start,
            il_end,
        });
    }
}

impl Inner {
    /// Makes llama.cpp forget the graphs that it keeps: setting a control vector, even the
    /// same or none, does that in all versions.
    ///
    /// # Safety
    /// `context` must be alive and used by no other thread.
    unsafe fn force_rebuild(&self, host: &Host, context: *mut LlamaContext) {
        let set = host.llama.llama_set_adapter_cvec;
        // SAFETY: the data are as the user gave them, or there are none.
        unsafe {
            match &self.control_vector {
                None => set(context, std::ptr::null(), 0, 0, 0, 0),
                Some(v) => set(
                    context,
                    v.data.as_ptr(),
                    v.data.len(),
                    v.n_embd,
                    v.il_start,
                    v.il_end,
                ),
            };
        }
    }
}

thread_local! {
    /// The context whose graphs this thread builds.
    static CURRENT: RefCell<Option<Arc<ContextState>>> = const { RefCell::new(None) };
}

/// Restores the context that was current before.
pub struct Entered(Option<Arc<ContextState>>);

/// Makes `state` the context whose graphs this thread builds, until the value is dropped.
pub fn enter(state: &Arc<ContextState>) -> Entered {
    Entered(CURRENT.replace(Some(Arc::clone(state))))
}

impl Drop for Entered {
    fn drop(&mut self) {
        let previous = self.0.take();
        // A thread that is being torn down builds no more graphs.
        let _ = CURRENT.try_with(|current| current.replace(previous));
    }
}

/// The context whose graphs this thread builds.
pub fn current() -> Option<Arc<ContextState>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok()?
}

type Contexts = HashMap<usize, Arc<ContextState>>;

fn contexts() -> MutexGuard<'static, Contexts> {
    static CONTEXTS: OnceLock<Mutex<Contexts>> = OnceLock::new();
    let contexts = CONTEXTS.get_or_init(Mutex::default);
    contexts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows a context from now on.
pub fn register(context: *mut LlamaContext, state: Arc<ContextState>) {
    state.created.store(true, Ordering::Relaxed);
    contexts().insert(context as usize, state);
}

/// The state of a context that is followed.
pub fn find(context: *const LlamaContext) -> Option<Arc<ContextState>> {
    contexts().get(&(context as usize)).cloned()
}

/// Follows a context no longer. Its rows go with the returned value.
pub fn forget(context: *const LlamaContext) -> Option<Arc<ContextState>> {
    contexts().remove(&(context as usize))
}
