//! Many edit sets at once, a row for each token.
//!
//! Per edited layer there is a table of factors and one of offsets, with a row for every set
//! and row 0 for none. A graph looks its tokens' rows up by their numbers, which are an input
//! of the graph: which sequence has which set is data, and no graph is built for a change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::{
    rows, set_name, GgmlApi, GgmlBuffer, GgmlBufferType, GgmlContext, GgmlInitParams, GgmlTableApi,
    GgmlTensor, GraphError, GGML_TYPE_F32,
};
use crate::edit_set::EditSet;

/// What leaves a value as it is: a factor, and an offset, which is -0 since -0 + 0 is 0.
const NEUTRAL: [f32; 2] = [1.0, -0.0];
const NAMES: [&str; 2] = ["jola_scales", "jola_offsets"];

/// Values that are copied at once: what is short when tables grow is memory.
const COPIED: usize = 1 << 16;

/// Rows of several edit sets in device memory, ready to become graph nodes.
///
/// Graphs that hold its tensors must not be computed after it is dropped.
#[derive(Debug)]
pub struct DeviceTables {
    api: GgmlApi,
    table_api: GgmlTableApi,
    /// Width of the head outputs of every layer that came by while graphs were built.
    seen: Mutex<BTreeMap<u32, usize>>,
    /// Factors and offsets of the layers that any set edits.
    layers: BTreeMap<u32, [Option<Table>; 2]>,
}

/// F32 `[width, n_rows]` in a buffer of its own, so that each goes when a longer one has its rows.
#[derive(Debug)]
struct Table {
    width: usize,
    n_rows: usize,
    context: *mut GgmlContext,
    buffer: *mut GgmlBuffer,
    tensor: *mut GgmlTensor,
}

// SAFETY: the pointers are owned by this value; tensors are written only by methods that take
// `&mut self`.
unsafe impl Send for DeviceTables {}
// SAFETY: as above; `apply` only passes the tensors to ggml as operands.
unsafe impl Sync for DeviceTables {}

impl DeviceTables {
    /// No tables: graphs stay as they are, and it is noted which layers they have.
    pub fn new(api: GgmlApi, table_api: GgmlTableApi) -> Self {
        Self {
            api,
            table_api,
            seen: Mutex::default(),
            layers: BTreeMap::new(),
        }
    }

    /// Bytes of all tables in device memory.
    pub fn bytes(&self) -> usize {
        self.tables().map(Table::bytes).sum()
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.layers.values().flatten().flatten()
    }

    /// Forgets which layers came by, before graphs are built anew.
    pub fn forget_seen(&self) {
        self.seen().clear();
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, usize>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether graphs show all layers that `edits` changes, as wide as it is.
    ///
    /// # Errors
    /// [`GraphError::Width`] and [`GraphError::NeverFired`].
    pub fn check(&self, edits: &EditSet) -> Result<(), GraphError> {
        let seen = self.seen();
        let mut missing = Vec::new();
        for (&layer, edit) in &edits.layers {
            match seen.get(&layer) {
                None => missing.push(layer),
                Some(&found) if found != edit.width() => {
                    return Err(GraphError::Width {
                        layer,
                        expected: edit.width(),
                        found: found as i64,
                    })
                }
                Some(_) => (),
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(GraphError::NeverFired { layers: missing }),
        }
    }

    /// Whether `edits` can be [written](Self::write) to `row` as the tables are.
    pub fn has_room(&self, edits: &EditSet, row: usize) -> bool {
        let fits = |layer: &u32| {
            let tables = self
                .layers
                .get(layer)
                .map_or([None, None], |tables| tables.each_ref().map(Option::as_ref));
            let pairs = rows(edits, *layer).into_iter().zip(tables);
            pairs
                .filter(|(row, _)| row.is_some())
                .all(|(_, table)| table.is_some())
        };
        self.tables().all(|table| row < table.n_rows) && edits.layers.keys().all(fits)
    }

    /// Makes the tables `n_rows` long, and adds those that `edits` needs: the first time just
    /// those, the next time all that the model can have, so that sets which differ in their
    /// layers do not have graphs built for each. What is in them stays.
    ///
    /// Graphs that hold the tables must be built anew afterwards.
    ///
    /// # Errors
    /// [`GraphError::NoBufferType`] and [`GraphError::Alloc`]; nothing has changed then.
    ///
    /// # Safety
    /// The functions given to [`Self::new`] must be those of one ggml, `buffer_type` must
    /// return buffer types of that ggml, and `edits` must have passed [`Self::check`]. No graph
    /// that holds the tables may be under computation.
    pub unsafe fn make_room(
        &mut self,
        edits: &EditSet,
        n_rows: usize,
        mut buffer_type: impl FnMut(u32) -> *mut GgmlBufferType,
    ) -> Result<(), GraphError> {
        let wanted = self.wanted(edits, n_rows);
        let layers: BTreeSet<u32> = wanted.iter().map(|(layer, ..)| *layer).collect();
        let widths: usize = wanted.iter().map(|(.., width)| width).sum();
        // All are allocated before the first takes another's place.
        let mut new = Self::new(self.api, self.table_api);
        for &(layer, part, width) in &wanted {
            let kind = buffer_type(layer);
            if kind.is_null() {
                return Err(GraphError::NoBufferType { layer });
            }
            // SAFETY: the caller vouches for the functions and for `kind`.
            let table = unsafe { self.table(layer, part, width, n_rows, kind) };
            let table = table.ok_or(GraphError::Alloc {
                bytes: widths * n_rows * size_of::<f32>(),
                layers: layers.len(),
            })?;
            new.layers.entry(layer).or_default()[part] = Some(table);
        }
        for (layer, tables) in std::mem::take(&mut new.layers) {
            for (part, table) in tables.into_iter().enumerate() {
                let Some(table) = table else { continue };
                let place = &mut self.layers.entry(layer).or_default()[part];
                // SAFETY: both are allocated, and as wide.
                unsafe { table.fill(&self.api, &self.table_api, NEUTRAL[part], place.as_ref()) };
                if let Some(old) = place.replace(table) {
                    old.free(&self.api);
                }
            }
        }
        Ok(())
    }

    /// The tables that [`Self::make_room`] allocates: layer, part and width.
    fn wanted(&self, edits: &EditSet, n_rows: usize) -> Vec<(u32, usize, usize)> {
        let widen = !self.layers.is_empty() && !self.has_room(edits, 0);
        let mut wanted = Vec::new();
        for (&layer, &width) in self.seen().iter() {
            let of_edits = match edits.layers.contains_key(&layer) {
                true => rows(edits, layer).map(|row| row.is_some()),
                false => [false; 2],
            };
            let tables = self.layers.get(&layer);
            for (part, of_edits) in of_edits.into_iter().enumerate() {
                let is_wanted = match tables.and_then(|tables| tables[part].as_ref()) {
                    Some(table) => table.n_rows < n_rows,
                    None => widen || of_edits,
                };
                if is_wanted {
                    wanted.push((layer, part, width));
                }
            }
        }
        wanted
    }

    /// A table with nothing in it; none if there is no memory for it.
    ///
    /// # Safety
    /// As for [`Self::make_room`].
    unsafe fn table(
        &self,
        layer: u32,
        part: usize,
        width: usize,
        n_rows: usize,
        kind: *mut GgmlBufferType,
    ) -> Option<Table> {
        let api = &self.api;
        // SAFETY: plain calls of ggml's allocation functions; every result is checked.
        unsafe {
            let context = (api.ggml_init)(GgmlInitParams {
                mem_size: (api.ggml_tensor_overhead)(),
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            });
            if context.is_null() {
                return None;
            }
            let tensor = (self.table_api.ggml_new_tensor_2d)(
                context,
                GGML_TYPE_F32,
                width as i64,
                n_rows as i64,
            );
            set_name(api, tensor, NAMES[part], layer);
            let buffer = (api.ggml_backend_alloc_ctx_tensors_from_buft)(context, kind);
            if buffer.is_null() {
                (api.ggml_free)(context);
                return None;
            }
            Some(Table {
                width,
                n_rows,
                context,
                buffer,
                tensor,
            })
        }
    }

    /// Writes `edits` to `row`.
    ///
    /// # Safety
    /// As for [`Self::make_room`]; [`Self::has_room`] must have said yes.
    pub unsafe fn write(&mut self, edits: &EditSet, row: usize) {
        for (layer, tables) in &self.layers {
            let values = match edits.layers.contains_key(layer) {
                true => rows(edits, *layer),
                false => [None; 2],
            };
            for (part, table) in tables.iter().enumerate() {
                let Some(table) = table else { continue };
                let neutral;
                let values = match values[part] {
                    Some(values) => values,
                    None => {
                        neutral = vec![NEUTRAL[part]; table.width];
                        &neutral
                    }
                };
                // SAFETY: the row is one of the table's and as wide (contract).
                unsafe { table.write(&self.api, row, values) };
            }
        }
    }

    /// Adds the edits of `layer` to the graph under construction in `graph`: a product with the
    /// tokens' factors and a sum with their offsets, where there are tables. `row_numbers`
    /// gives the graph's input of a row number per token. `cur` is F32
    /// `[head_dim * n_head, n_tokens]`; returned is `cur` itself for a layer without tables.
    ///
    /// # Safety
    /// `graph`, `cur` and what `row_numbers` returns must be live objects of the ggml given to
    /// [`Self::new`].
    pub unsafe fn apply(
        &self,
        graph: *mut GgmlContext,
        cur: *mut GgmlTensor,
        layer: u32,
        row_numbers: impl FnOnce() -> *mut GgmlTensor,
    ) -> *mut GgmlTensor {
        let api = &self.api;
        // SAFETY: `cur` is live; both functions only read its shape.
        let (n_tokens, elements) =
            unsafe { ((api.ggml_nrows)(cur).max(1), (api.ggml_nelements)(cur)) };
        let width = (elements / n_tokens) as usize;
        let Some(tables) = self.layers.get(&layer) else {
            self.seen().insert(layer, width);
            return cur;
        };
        let row_numbers = row_numbers();
        // SAFETY: live, as the caller says.
        let numbers = unsafe { (api.ggml_nelements)(row_numbers) };
        let fits = tables.iter().flatten().all(|table| table.width == width);
        if numbers != n_tokens || !fits {
            // Not seen: an edit of this layer is refused.
            return cur;
        }
        self.seen().insert(layer, width);
        let mut edited = cur;
        let [factors, offsets] = tables;
        // SAFETY: operands are live, of one type and as wide as cur; there is a row number for
        // each of cur's rows.
        unsafe {
            let rows_of =
                |table: &Table| (self.table_api.ggml_get_rows)(graph, table.tensor, row_numbers);
            if let Some(table) = factors {
                edited = (api.ggml_mul)(graph, edited, rows_of(table));
                set_name(api, edited, "kqv_out_scaled", layer);
            }
            if let Some(table) = offsets {
                edited = (api.ggml_add)(graph, edited, rows_of(table));
                set_name(api, edited, "kqv_out_offset", layer);
            }
        }
        edited
    }
}

impl Table {
    fn bytes(&self) -> usize {
        self.width * self.n_rows * size_of::<f32>()
    }

    /// Writes values from `row` on.
    ///
    /// # Safety
    /// The table must have them, and no graph that holds it may be under computation.
    unsafe fn write(&self, api: &GgmlApi, row: usize, values: &[f32]) {
        let offset = row * self.width * size_of::<f32>();
        // SAFETY: the values lie within the tensor (contract).
        unsafe {
            (api.ggml_backend_tensor_set)(
                self.tensor,
                values.as_ptr().cast(),
                offset,
                size_of_val(values),
            );
        }
    }

    /// Takes over what is in `old`, and makes the rows behind it neutral.
    ///
    /// # Safety
    /// `old` must be as wide, and no graph that holds this table may be under computation.
    unsafe fn fill(
        &self,
        api: &GgmlApi,
        table_api: &GgmlTableApi,
        neutral: f32,
        old: Option<&Table>,
    ) {
        let step = (COPIED / self.width).max(1);
        let mut values = vec![neutral; step * self.width];
        let n_old = old.map_or(0, |old| old.n_rows);
        for first in (0..self.n_rows).step_by(step) {
            let values = &mut values[..step.min(self.n_rows - first) * self.width];
            let held = n_old.saturating_sub(first) * self.width;
            let (held, rest) = values.split_at_mut(held.min(values.len()));
            rest.fill(neutral);
            if let (Some(old), false) = (old, held.is_empty()) {
                let offset = first * self.width * size_of::<f32>();
                // SAFETY: the old table has these rows.
                unsafe {
                    let to = held.as_mut_ptr().cast();
                    (table_api.ggml_backend_tensor_get)(old.tensor, to, offset, size_of_val(held));
                }
            }
            // SAFETY: the values are rows of this table.
            unsafe { self.write(api, first, values) };
        }
    }

    fn free(self, api: &GgmlApi) {
        // SAFETY: allocated in `table`, freed once, the tensor's buffer first.
        unsafe {
            (api.ggml_backend_buffer_free)(self.buffer);
            (api.ggml_free)(self.context);
        }
    }
}

impl Drop for DeviceTables {
    fn drop(&mut self) {
        for table in std::mem::take(&mut self.layers)
            .into_values()
            .flatten()
            .flatten()
        {
            table.free(&self.api);
        }
    }
}
