//! Another choice of edits for a context that exists.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use jola_edit::graph::{DeviceEdits, GraphError};
use jola_edit::EditSet;

use crate::adapters::Adapter;
use crate::control_vector::{force_rebuild, ControlVector};
use crate::host::LlamaContext;
use crate::log;
use crate::request::{compose, Request, Sources};
use crate::shape;
use crate::state::{ContextState, Inner, Outcome, StateError};
use crate::usage;

impl ContextState {
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
        let request = request.filter(|request| !request.edits.is_empty());
        let inner = &mut *self.lock();
        // SAFETY: the model lives as long as its context; the caller vouches for `context`.
        unsafe {
            if let Some(request) = &request {
                shape::check(self.host.model, self.model, &request.sidecars)?;
                usage::tell(self.host.model, self.model, &request.sidecars);
            }
            let stand_ins = inner.stand_ins.clone();
            self.install(inner, context, request, stand_ins)?;
            let memory = (self.host.llama.llama_get_memory)(context);
            if !memory.is_null() {
                (self.host.memory.llama_memory_clear)(memory, true);
            }
        }
        self.sequences().clear();
        Ok(())
    }

    /// Gives the context the adapters that the host has chosen, each with its scale, beside the
    /// edits that every request gets. Cached keys and values stay: their tag tells them apart.
    /// What cannot be had makes the next computation fail.
    ///
    /// # Errors
    /// Any [`StateError`].
    ///
    /// # Safety
    /// As for [`Self::change`].
    pub unsafe fn set_adapters(
        &self,
        context: *mut LlamaContext,
        adapters: Vec<(Adapter, f32)>,
    ) -> Result<(), StateError> {
        let start = Instant::now();
        let (mut stand_ins, mut loras) = (Sources::new(), Vec::new());
        for (adapter, scale) in adapters {
            match adapter {
                Adapter::StandIn(source) if scale != 0.0 => stand_ins.push((source, scale)),
                Adapter::Lora(digest) if scale != 0.0 => loras.push((digest, scale)),
                _ => {}
            }
        }
        let inner = &mut *self.lock();
        inner.loras = loras;
        let same = |((a, x), (b, y)): (&(Arc<_>, f32), &(Arc<_>, f32))| Arc::ptr_eq(a, b) && x == y;
        let known = inner.stand_ins.len() == stand_ins.len()
            && inner.stand_ins.iter().zip(&stand_ins).all(same);
        if known && inner.refused.is_none() {
            return Ok(());
        }
        let request = inner.request.clone();
        // SAFETY: the caller vouches for `context`.
        let installed = unsafe { self.install(inner, context, request, stand_ins) };
        inner.refused = installed.as_ref().err().map(ToString::to_string);
        log::debug(format_args!(
            "adapters set in {} µs; {} graphs built so far",
            start.elapsed().as_micros(),
            inner.graphs
        ));
        installed
    }

    /// Makes every computation fail until other adapters are set.
    pub fn refuse(&self, why: &str) {
        self.lock().refused = Some(why.to_owned());
    }

    /// Writes the rows of a choice of edits in place, or has new ones built into the graphs.
    ///
    /// # Safety
    /// As for [`Self::change`].
    unsafe fn install(
        &self,
        inner: &mut Inner,
        context: *mut LlamaContext,
        request: Option<Arc<Request>>,
        stand_ins: Sources,
    ) -> Result<(), StateError> {
        let all = request.iter().flat_map(|request| request.sidecars.clone());
        let all: Sources = all.chain(stand_ins.iter().cloned()).collect();
        let edits = self.with_room(compose(&all)?);
        // SAFETY: the rows are written when no graph is under computation.
        unsafe {
            (self.host.llama.llama_synchronize)(context);
            let overwritten = match &mut inner.device {
                Some(device) => device.overwrite(&edits),
                None => edits.is_empty(),
            };
            if !overwritten {
                let device = match edits.is_empty() {
                    true => None,
                    false => Some(
                        self.upload(inner, &edits)
                            .map_err(|error| self.graph_error(inner, error))?,
                    ),
                };
                inner.retired.extend(inner.device.take());
                inner.device = device;
                inner.built = false;
                force_rebuild(self.host, context, inner.control_vector.as_ref());
                self.changed.store(true, Ordering::Release);
            }
        }
        inner.edits = edits;
        inner.request = request;
        inner.stand_ins = stand_ins;
        Ok(())
    }
    /// Brings edits into the memory of the layers that the graphs showed, into rows of
    /// older edits where they fit.
    ///
    /// # Safety
    /// No graph of the context may be under computation.
    unsafe fn upload(&self, inner: &mut Inner, edits: &EditSet) -> Result<DeviceEdits, GraphError> {
        if !inner.has_seen() {
            // The graphs so far were built before anything was wanted of them.
            return Ok(DeviceEdits::deferred(self.host.ggml, edits));
        }
        let layers = inner.unseen(edits);
        if !layers.is_empty() {
            return Err(GraphError::NeverFired { layers });
        }
        for (&layer, edit) in &edits.layers {
            let (found, _) = inner.place(layer);
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
        unsafe { DeviceEdits::upload(self.host.ggml, edits, |layer| inner.place(layer).1) }
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

    /// Remembers the user's control vector, which a change of edits has to set again.
    pub fn remember_control_vector(&self, vector: Option<ControlVector>) {
        self.lock().control_vector = vector;
    }
}
