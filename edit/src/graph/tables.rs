//! Many edit sets at once, a row for each token.
//!
//! Per edited layer there is a table of factors and one of offsets, with a row for every set
//! and row 0 for none. A graph looks its tokens' rows up by their numbers, which are an input
//! of the graph: which sequence has which set is data, and no graph is built for a change of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{
    rows, set_name, GgmlApi, GgmlBuffer, GgmlBufferType, GgmlContext, GgmlInitParams, GgmlTableApi,
    GgmlTensor, GraphError, GGML_TYPE_F32,
};
use crate::edit_set::EditSet;

/// What leaves a value as it is: a factor, and an offset, which is -0 since -0 + 0 is 0.
const NEUTRAL: [f32; 2] = [1.0, -0.0];
const NAMES: [&str; 2] = ["jola_scales", "jola_offsets"];

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

/// F32 `[width, n_rows]` in a buffer of its own, so that growing needs only one twice.
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
    /// Graphs that hold the tables must be built anew afterwards, also after an error.
    ///
    /// # Errors
    /// [`GraphError::NoBufferType`] and [`GraphError::Alloc`]; what was loaded is still there.
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
        let seen = self.seen().clone();
        let first = self.layers.is_empty();
        let widen = !first && !self.has_room(edits, 0);
        for (&layer, &width) in &seen {
            let of_edits = match edits.layers.contains_key(&layer) {
                true => rows(edits, layer).map(|row| row.is_some()),
                false => [false; 2],
            };
            for part in 0..2 {
                let old = self
                    .layers
                    .get(&layer)
                    .and_then(|tables| tables[part].as_ref());
                let wanted = old.is_some() || widen || of_edits[part];
                if !wanted || old.is_some_and(|table| table.n_rows >= n_rows) {
                    continue;
                }
                let kind = buffer_type(layer);
                if kind.is_null() {
                    return Err(GraphError::NoBufferType { layer });
                }
                // SAFETY: the caller vouches for the functions and for `kind`.
                let new = unsafe { self.table(layer, part, width, n_rows, old, kind)? };
                let tables = self.layers.entry(layer).or_default();
                if let Some(old) = tables[part].replace(new) {
                    old.free(&self.api);
                }
            }
        }
        Ok(())
    }

    /// A table with what is in `old`, and neutral rows behind it.
    ///
    /// # Safety
    /// As for [`Self::make_room`].
    unsafe fn table(
        &self,
        layer: u32,
        part: usize,
        width: usize,
        n_rows: usize,
        old: Option<&Table>,
        kind: *mut GgmlBufferType,
    ) -> Result<Table, GraphError> {
        let api = &self.api;
        let failed = || GraphError::Alloc {
            bytes: width * n_rows * size_of::<f32>(),
            layers: 1,
        };
        // SAFETY: plain calls of ggml's allocation functions; every result is checked.
        let table = unsafe {
            let context = (api.ggml_init)(GgmlInitParams {
                mem_size: (api.ggml_tensor_overhead)(),
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            });
            if context.is_null() {
                return Err(failed());
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
                return Err(failed());
            }
            Table {
                width,
                n_rows,
                context,
                buffer,
                tensor,
            }
        };
        let mut values = vec![NEUTRAL[part]; width * n_rows];
        if let Some(old) = old {
            // SAFETY: `values` has room for the smaller table, which is allocated.
            unsafe {
                let to = values.as_mut_ptr().cast();
                (self.table_api.ggml_backend_tensor_get)(old.tensor, to, 0, old.bytes());
            }
        }
        // SAFETY: `values` are as many as the tensor has.
        unsafe { table.write(api, 0, &values) };
        Ok(table)
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
