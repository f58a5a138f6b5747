//! Edits inside llama.cpp's compute graph.
//!
//! llama.cpp calls back (`patches/jola-hook.h`) whenever it builds a graph and a layer's head
//! outputs are complete; the callback inserts the layer's product and sum there. The nodes
//! are ordinary graph nodes with operands in the memory of the layer's own device, so every
//! backend computes them and nothing is synchronised.
//!
//! With one edit set for all sequences those operands are its rows. With sequences that have
//! their own ([`Hook::set_edits_of`]) each token's rows are looked up in a table of all sets.
//!
//! [`Context::set_edits`](crate::Context::set_edits) is the safe way in. [`Hook`] is for
//! programs that own a raw `llama_context`.

mod cells;
mod sets;
mod suitable;

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

use jola_edit::graph::{DeviceEdits, DeviceTables, GgmlBufferType, GgmlTensor};
use jola_edit::EditSet;
use llama_cpp_sys_2 as sys;

use crate::native::{self, ffi};
use crate::{ggml, Error};

use sets::Each;
pub use sets::LoadedEdits;

/// Sets that the first tables have room for; from then on it doubles.
const FIRST_CAPACITY: usize = 4;

/// Edits attached to a raw `llama_context`.
///
/// [`Self::detach`] takes the edits out again, and so does dropping it, which cannot say whether
/// it failed. Either must happen before `llama_free`.
pub struct Hook {
    ctx: NonNull<sys::llama_context>,
    /// Boxed: llama.cpp holds its address. Freed after the graphs that use it; `None` once it is
    /// taken out.
    attached: Option<NonNull<Attached>>,
    /// What all sequences have that were given nothing of their own.
    common: EditSet,
}

/// What llama.cpp's graphs use.
enum Attached {
    /// One set for all sequences.
    One(DeviceEdits),
    /// A set for each sequence.
    Each(Each),
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook")
            .field("ctx", &self.ctx)
            .finish_non_exhaustive()
    }
}

// SAFETY: the hook's own state is Send and Sync; the context pointer is only used where the
// owner of the context calls the unsafe functions, or drops the hook.
unsafe impl Send for Hook {}

impl Hook {
    /// Attaches `edits` to `ctx`, for all of its sequences: uploads the rows to the devices of
    /// their layers, rebuilds the graphs, and drops all cached keys and values, which earlier
    /// edits (or none) made; an empty set leaves them.
    ///
    /// # Errors
    /// When memory is short, when the edit's width is not the graph's, when a layer with an
    /// edit never appeared in the graph, and for models with both an encoder and a decoder.
    /// The context is then without edits.
    ///
    /// # Safety
    /// `ctx` must be a live context, used by no other thread during the call, without
    /// another `Hook`, and must outlive the returned value.
    pub unsafe fn attach(ctx: NonNull<sys::llama_context>, edits: &EditSet) -> Result<Self, Error> {
        // SAFETY: the context is alive.
        unsafe { suitable::check(ctx)? };
        let mut hook = Self {
            ctx,
            attached: None,
            common: edits.clone(),
        };
        if edits.is_empty() {
            // Sets to come are loaded into tables: graphs need not be built for nothing first.
            hook.begin_each()?;
            return Ok(hook);
        }
        // SAFETY: api() is one ggml's; the buffer types come from that ggml.
        let device =
            unsafe { DeviceEdits::upload(ggml::api(), edits, |layer| buffer_type(ctx, layer))? };
        let installed = hook.install(Attached::One(device));
        cells::forget_all(ctx);
        installed?;
        let checked = match hook.attached() {
            Some(Attached::One(device)) => device.check(),
            _ => Ok(()),
        };
        match checked {
            Ok(()) => Ok(hook),
            Err(error) => hook.detach().and(Err(error.into())),
        }
    }

    fn attached(&self) -> Option<&Attached> {
        // SAFETY: made by `install`, freed when it is taken out.
        self.attached.map(|attached| unsafe { attached.as_ref() })
    }

    /// Has the graphs built with `attached`; what was installed before is freed.
    ///
    /// # Errors
    /// [`Error::Hook`]: the context is then only good to be freed.
    fn install(&mut self, attached: Attached) -> Result<(), Error> {
        let new = NonNull::from(Box::leak(Box::new(attached)));
        self.build_graphs(new)?;
        if let Some(old) = self.attached.replace(new) {
            // SAFETY: made here, and no graph is left that uses it.
            drop(unsafe { Box::from_raw(old.as_ptr()) });
        }
        Ok(())
    }

    /// Has the graphs built anew, with `attached` in them.
    ///
    /// # Errors
    /// As [`Self::install`]; all that graphs may still refer to stays in memory for good.
    fn build_graphs(&mut self, attached: NonNull<Attached>) -> Result<(), Error> {
        let user = attached.as_ptr().cast();
        // SAFETY: `attached` is freed after the graphs that use it.
        match unsafe { ffi::jola_hook_attach(self.ctx.as_ptr(), Some(edit_layer), user) } {
            0 => Ok(()),
            _ => {
                self.attached = None;
                Err(Error::Hook(native::last_message()))
            }
        }
    }

    /// Gives one sequence edits of its own, in place of those that it had; an empty set takes
    /// them off. They act on its tokens at `positions`. What is cached of this sequence is
    /// dropped from the first token on that was computed under other edits; other sequences go
    /// on undisturbed. A set is loaded once for all sequences that have it.
    ///
    /// A token that is decoded for several sequences at once gets the edits of the first: give
    /// such a token only to sequences of which [`Self::agree`] says so.
    ///
    /// # Errors
    /// [`Error::SequenceRange`], and those of [`Self::load`].
    ///
    /// # Safety
    /// The context must not be used by another thread during the call.
    pub unsafe fn set_edits_of(
        &mut self,
        sequence: usize,
        edits: &EditSet,
        positions: Range<usize>,
    ) -> Result<(), Error> {
        // SAFETY: as the caller says.
        unsafe {
            self.check_sequence(sequence)?;
            let loaded = self.load(edits)?;
            self.assign(sequence, &loaded, positions)
        }
    }

    /// Loads edits for sequences to have. What is loaded already is only counted. Graphs are
    /// built anew when there is no room, which doubles each time.
    ///
    /// # Errors
    /// As [`Self::attach`]; all is then as it was, unless it is [`Error::Hook`].
    ///
    /// # Safety
    /// The context must not be used by another thread during the call.
    pub unsafe fn load(&mut self, edits: &EditSet) -> Result<LoadedEdits, Error> {
        // SAFETY: the context is alive; tables are written below.
        unsafe { sys::llama_synchronize(self.ctx.as_ptr()) };
        self.begin_each()?;
        self.load_row(edits)
    }

    /// Goes over from one set for all, or from none, to a table of sets, in which all sequences
    /// have the former. No key or value changes by that.
    fn begin_each(&mut self) -> Result<(), Error> {
        if matches!(self.attached(), Some(Attached::Each(_))) {
            return Ok(());
        }
        // SAFETY: the context is alive.
        let n_sequences = unsafe { sys::llama_n_seq_max(self.ctx.as_ptr()) } as usize;
        let tables = DeviceTables::new(ggml::api(), ggml::table_api());
        let former = self.attached.take();
        let begin = || {
            self.install(Attached::Each(Each::new(tables, n_sequences)))?;
            let common = self.common.clone();
            let loaded = self.load_row(&common)?;
            let each = self.each_mut()?;
            for sequence in 0..n_sequences {
                each.assign(sequence, &loaded, &(0..usize::MAX));
            }
            each.common = loaded;
            Ok(())
        };
        match (begin(), former) {
            (Ok(()), former) => {
                if let Some(former) = former {
                    // SAFETY: made by `install`, and no graph is left that uses it.
                    drop(unsafe { Box::from_raw(former.as_ptr()) });
                }
                Ok(())
            }
            // Graphs that could not be built may refer to both.
            (Err(error @ Error::Hook(_)), _) | (Err(error), None) => Err(error),
            (Err(error), Some(former)) => {
                let each = self.attached.take();
                self.build_graphs(former)?;
                self.attached = Some(former);
                if let Some(each) = each {
                    // SAFETY: as above.
                    drop(unsafe { Box::from_raw(each.as_ptr()) });
                }
                Err(error)
            }
        }
    }

    fn each(&self) -> Option<&Each> {
        match self.attached()? {
            Attached::Each(each) => Some(each),
            Attached::One(_) => None,
        }
    }

    fn each_mut(&mut self) -> Result<&mut Each, Error> {
        let mut attached = self.attached.ok_or(Error::Broken)?;
        // SAFETY: made by `install`; graphs are built and computed only in calls of the
        // context's owner, which do not overlap with those of this value.
        match unsafe { attached.as_mut() } {
            Attached::Each(each) => Ok(each),
            Attached::One(_) => Err(Error::Broken),
        }
    }

    /// As [`Self::load`], with tables there.
    fn load_row(&mut self, edits: &EditSet) -> Result<LoadedEdits, Error> {
        let each = self.each_mut()?;
        let registry = each.registry.clone();
        if edits.is_empty() {
            return Ok(registry.insert(0, 0));
        }
        let key = registry.key(edits);
        if let Some(loaded) = registry.find(key) {
            return Ok(loaded);
        }
        each.tables.check(edits)?;
        let row = registry.free_row();
        if !each.tables.has_room(edits, row) {
            self.make_room(edits, row)?;
        }
        let tables = &mut self.each_mut()?.tables;
        // SAFETY: nothing is being computed, and there is room.
        unsafe { tables.write(edits, row) };
        Ok(registry.insert(key, row))
    }

    /// Makes the tables large enough for `edits` in `row`, and builds graphs with them.
    fn make_room(&mut self, edits: &EditSet, row: usize) -> Result<(), Error> {
        let ctx = self.ctx;
        let each = self.each_mut()?;
        let mut capacity = each.capacity.max(FIRST_CAPACITY);
        while capacity < row {
            capacity *= 2;
        }
        // SAFETY: the functions and buffer types are of the ggml that is linked; nothing is
        // being computed.
        let made = unsafe {
            let buffer_type = |layer| buffer_type(ctx, layer);
            each.tables.make_room(edits, capacity + 1, buffer_type)
        };
        made?;
        each.capacity = capacity;
        each.tables.forget_seen();
        if let Some(attached) = self.attached {
            self.build_graphs(attached)?;
        }
        Ok(self.each_mut()?.tables.check(edits)?)
    }

    /// As [`Self::set_edits_of`], of edits that are loaded.
    ///
    /// # Errors
    /// [`Error::SequenceRange`]; [`Error::OtherEdits`] for those that were loaded for another
    /// context, or before [`Context::set_edits`](crate::Context::set_edits).
    ///
    /// # Safety
    /// The context must not be used by another thread during the call.
    pub unsafe fn assign(
        &mut self,
        sequence: usize,
        edits: &LoadedEdits,
        positions: Range<usize>,
    ) -> Result<(), Error> {
        // SAFETY: as the caller says.
        unsafe { self.check_sequence(sequence)? };
        match self.each() {
            Some(each) if edits.is_of(&each.registry) => (),
            _ => return Err(Error::OtherEdits),
        }
        if let Some(position) = self.each_mut()?.assign(sequence, edits, &positions) {
            cells::forget_sequence(self.ctx, sequence, position);
        }
        Ok(())
    }

    /// Gives a sequence the edits that all have which were given nothing of their own: those of
    /// [`Self::attach`]. What is cached of it is dropped if it had others.
    ///
    /// # Errors
    /// [`Error::SequenceRange`].
    ///
    /// # Safety
    /// The context must not be used by another thread during the call.
    pub unsafe fn reset_edits_of(&mut self, sequence: usize) -> Result<(), Error> {
        match self.each().map(|each| each.common.clone()) {
            // SAFETY: as the caller says.
            Some(common) => unsafe { self.assign(sequence, &common, 0..usize::MAX) },
            // SAFETY: as the caller says.
            None => unsafe { self.check_sequence(sequence) },
        }
    }

    /// Gives sequence `to` the edits that `from` has, before its keys and values are copied.
    /// What is cached of `to` is dropped if it had others.
    ///
    /// # Errors
    /// [`Error::SequenceRange`].
    ///
    /// # Safety
    /// The context must not be used by another thread during the call.
    pub unsafe fn copy_edits(&mut self, from: usize, to: usize) -> Result<(), Error> {
        // SAFETY: as the caller says.
        unsafe {
            self.check_sequence(from)?;
            self.check_sequence(to)?;
        }
        if self.each().is_none() {
            return Ok(());
        }
        if let Some(position) = self.each_mut()?.copy(from, to) {
            cells::forget_sequence(self.ctx, to, position);
        }
        Ok(())
    }

    /// Whether both sequences have the same edits at the same positions.
    pub fn agree(&self, a: usize, b: usize) -> bool {
        self.each().is_none_or(|each| {
            let n = each.n_sequences();
            a < n && b < n && each.agree(a, b)
        })
    }

    /// What all sequences have that were given nothing of their own.
    pub fn common(&self) -> &EditSet {
        &self.common
    }

    /// How many edit sets are loaded for sequences to have.
    pub fn n_loaded(&self) -> usize {
        self.each().map_or(0, |each| each.registry.len())
    }

    /// Bytes of device memory that those sets take, with the room for more.
    pub fn table_bytes(&self) -> usize {
        self.each().map_or(0, |each| each.tables.bytes())
    }

    /// # Safety
    /// The context must not be used by another thread during the call.
    unsafe fn check_sequence(&self, sequence: usize) -> Result<(), Error> {
        // SAFETY: the context is alive.
        let n_seq_max = unsafe { sys::llama_n_seq_max(self.ctx.as_ptr()) } as usize;
        check_sequence(sequence, n_seq_max)
    }

    /// Takes the edits out again: rebuilds the graphs without them and drops all cached keys and
    /// values.
    ///
    /// # Errors
    /// [`Error::Hook`] when the graphs cannot be built. The context must then not be used any
    /// more, only freed.
    pub fn detach(mut self) -> Result<(), Error> {
        self.detach_edits()
    }

    fn detach_edits(&mut self) -> Result<(), Error> {
        let Some(attached) = self.attached.take() else {
            return Ok(());
        };
        // SAFETY: the context is alive (contract of `attach`). When this returns 0 no graph
        // refers to the edits any more.
        let status = unsafe { ffi::jola_hook_detach(self.ctx.as_ptr()) };
        cells::forget_all(self.ctx);
        if status == 0 {
            // SAFETY: made by `install`, and no graph is left that uses it.
            drop(unsafe { Box::from_raw(attached.as_ptr()) });
            return Ok(());
        }
        // Graphs that could not be built may still refer to it: it stays in memory for good.
        Err(Error::Hook(native::last_message()))
    }

    /// Takes the edits off a context that is about to be freed: as dropping, without
    /// building graphs that nobody will use.
    ///
    /// # Safety
    /// Nothing may be decoded with the context afterwards.
    pub unsafe fn release(mut self) {
        // SAFETY: the context is alive (contract of `attach`).
        unsafe {
            sys::llama_synchronize(self.ctx.as_ptr());
            ffi::jola_hook_release(self.ctx.as_ptr());
        }
        if let Some(attached) = self.attached.take() {
            // SAFETY: made by `install`; graphs that hold it are never computed again.
            drop(unsafe { Box::from_raw(attached.as_ptr()) });
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // What a failure would leave to be freed is kept.
        let _ = self.detach_edits();
    }
}

/// Called by llama.cpp while it builds a graph.
unsafe extern "C" fn edit_layer(
    user: *mut c_void,
    graph: *const c_void,
    nodes: *mut sys::ggml_context,
    cur: *mut sys::ggml_tensor,
    layer: i32,
) -> *mut sys::ggml_tensor {
    let (nodes, cur, layer) = (nodes.cast(), cur.cast(), layer as u32);
    // SAFETY: `user` is what a live Hook has attached; the others come from llama.cpp, and the
    // rows of its sequences live as long as what is attached.
    let edited: *mut GgmlTensor = unsafe {
        match &*user.cast::<Attached>() {
            Attached::One(edits) => edits.apply(nodes, cur, layer),
            Attached::Each(each) => each.tables.apply(nodes, cur, layer, || {
                ffi::jola_hook_rows(graph, each.rows()).cast()
            }),
        }
    };
    edited.cast()
}

/// That a context of `n_seq_max` sequences has this one.
///
/// # Errors
/// [`Error::SequenceRange`].
pub(crate) fn check_sequence(sequence: usize, n_seq_max: usize) -> Result<(), Error> {
    match sequence < n_seq_max {
        true => Ok(()),
        false => Err(Error::SequenceRange {
            sequence: i32::try_from(sequence).unwrap_or(i32::MAX),
            n_seq_max,
        }),
    }
}

/// The plain buffer type of a layer's device, null when there is none.
fn buffer_type(ctx: NonNull<sys::llama_context>, layer: u32) -> *mut GgmlBufferType {
    // SAFETY: hooks exist on live contexts only (contract of `Hook::attach`).
    unsafe { ffi::jola_hook_layer_buft(ctx.as_ptr(), layer as i32).cast() }
}

/// Says how many tokens one sequence of `ctx` may hold, by which some models choose their
/// rotary factors.
///
/// # Safety
/// `ctx` must be a live context that has computed nothing yet.
pub(crate) unsafe fn set_sequence_length(ctx: NonNull<sys::llama_context>, n_tokens: u32) {
    // SAFETY: the caller vouches for the context.
    unsafe { ffi::jola_hook_set_sequence_length(ctx.as_ptr(), n_tokens) };
}
