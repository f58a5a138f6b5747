//! By llama.cpp's own C API, as a program that owns its context has it: every kind of cache.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use jola_edit::EditSet;
use llama_cpp_sys_2 as sys;
use llama_jola::hook::Hook;
use testkit::tiny::forms;
use testkit::Folder;

use super::{edits, Parts};

const SEQUENCES: usize = 4;

/// How a context is made.
#[derive(Clone, Copy, Debug)]
struct Cache {
    unified: bool,
    quantised: bool,
    n_ubatch: u32,
}

const UNIFIED: Cache = Cache {
    unified: true,
    quantised: false,
    n_ubatch: 8,
};
const SPLIT: Cache = Cache {
    unified: false,
    ..UNIFIED
};

struct Raw {
    model: *mut sys::llama_model,
    ctx: NonNull<sys::llama_context>,
    hook: Option<Hook>,
    lengths: [usize; SEQUENCES],
}

impl Raw {
    fn new(path: &Path, cache: Cache) -> Self {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the calls follow llama.h; results are checked.
        unsafe {
            let params = sys::llama_model_default_params();
            let model = sys::llama_model_load_from_file(path.as_ptr(), params);
            assert!(!model.is_null());
            let mut params = sys::llama_context_default_params();
            params.n_ctx = 256 * SEQUENCES as u32;
            params.n_ubatch = cache.n_ubatch;
            params.n_seq_max = SEQUENCES as u32;
            params.n_threads = 2;
            params.n_threads_batch = 2;
            params.kv_unified = cache.unified;
            if cache.quantised {
                params.type_k = sys::GGML_TYPE_Q8_0;
                params.type_v = sys::GGML_TYPE_Q8_0;
                params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_ENABLED;
            }
            let ctx = sys::llama_init_from_model(model, params);
            Self {
                model,
                ctx: NonNull::new(ctx).expect("a context"),
                hook: None,
                lengths: [0; SEQUENCES],
            }
        }
    }

    /// Decodes `n` tokens behind what each sequence has; the logits of all, by sequence.
    fn decode(&mut self, wanted: &[(usize, usize)]) -> Vec<(usize, Vec<u32>)> {
        let total: usize = wanted.iter().map(|(_, n)| n).sum();
        // SAFETY: the calls follow llama.h; the batch has room for `total` tokens.
        unsafe {
            let vocabulary = sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.model));
            let mut batch = sys::llama_batch_init(total as i32, 0, 1);
            let mut sequences = Vec::new();
            for &(sequence, n) in wanted {
                for _ in 0..n {
                    let (i, position) = (sequences.len(), self.lengths[sequence]);
                    let token = (position * 7919 + sequence * 104_729 + 13) as i32;
                    *batch.token.add(i) = 4 + token % (vocabulary - 4);
                    *batch.pos.add(i) = position as i32;
                    *batch.n_seq_id.add(i) = 1;
                    **batch.seq_id.add(i) = sequence as i32;
                    *batch.logits.add(i) = 1;
                    sequences.push(sequence);
                    self.lengths[sequence] += 1;
                }
            }
            batch.n_tokens = total as i32;
            assert_eq!(sys::llama_decode(self.ctx.as_ptr(), batch), 0);
            sys::llama_batch_free(batch);
            let logits = |i: usize| {
                let row = sys::llama_get_logits_ith(self.ctx.as_ptr(), i as i32);
                let row = std::slice::from_raw_parts(row, vocabulary as usize);
                row.iter().map(|value| value.to_bits()).collect()
            };
            let rows = sequences.into_iter().enumerate();
            rows.map(|(i, sequence)| (sequence, logits(i))).collect()
        }
    }

    fn remove(&mut self, sequence: usize) {
        self.lengths[sequence] = 0;
        // SAFETY: the context is alive.
        unsafe {
            let memory = sys::llama_get_memory(self.ctx.as_ptr());
            assert!(sys::llama_memory_seq_rm(memory, sequence as i32, -1, -1));
        }
    }

    fn held(&self, sequence: usize) -> usize {
        // SAFETY: the context is alive.
        let last = unsafe {
            let memory = sys::llama_get_memory(self.ctx.as_ptr());
            sys::llama_memory_seq_pos_max(memory, sequence as i32)
        };
        (last + 1) as usize
    }

    /// Copies a sequence, which takes its edits along.
    fn copy(&mut self, from: usize, to: usize) {
        if let Some(hook) = &mut self.hook {
            // SAFETY: nobody else uses the context.
            unsafe { hook.copy_edits(from, to).unwrap() };
        }
        self.remove(to);
        self.lengths[to] = self.lengths[from];
        // SAFETY: the context is alive.
        unsafe {
            let memory = sys::llama_get_memory(self.ctx.as_ptr());
            sys::llama_memory_seq_cp(memory, from as i32, to as i32, -1, -1);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        drop(self.hook.take());
        // SAFETY: made in `new`, freed once, context first.
        unsafe {
            sys::llama_free(self.ctx.as_ptr());
            sys::llama_model_free(self.model);
        }
    }
}

/// Sequences join, go on, leave, are copied and change their edits. `give` says that a
/// sequence has that edit set (by index) from now on; what is cached of it must be gone then.
fn story(raw: &mut Raw, give: impl Fn(&mut Raw, usize, usize)) -> Vec<(usize, Vec<u32>)> {
    let mut rows = Vec::new();
    give(raw, 1, 1);
    give(raw, 2, 2);
    rows.extend(raw.decode(&[(0, 7), (1, 5), (2, 9)]));
    for _ in 0..3 {
        rows.extend(raw.decode(&[(0, 1), (1, 1), (2, 1)]));
    }
    // Another joins, in the middle of the others.
    give(raw, 3, 3);
    rows.extend(raw.decode(&[(0, 1), (3, 6), (1, 1), (2, 1)]));
    // One leaves, and one is copied to its place.
    raw.remove(1);
    raw.copy(2, 1);
    rows.extend(raw.decode(&[(2, 1), (1, 2), (0, 1), (3, 1)]));
    // One changes its edits, then another goes on without any.
    give(raw, 2, 1);
    rows.extend(raw.decode(&[(2, 8), (0, 1), (3, 1), (1, 1)]));
    give(raw, 3, 0);
    rows.extend(raw.decode(&[(3, 4), (2, 1), (0, 1), (1, 1)]));
    for _ in 0..2 {
        rows.extend(raw.decode(&[(0, 1), (1, 1), (2, 1), (3, 1)]));
    }
    rows
}

/// The edit set that a sequence has at each row, in the order of `story`.
fn sets_of_rows(rows: &[(usize, Vec<u32>)]) -> Vec<usize> {
    let mut sets = [0, 1, 2, 3];
    // Rows before each change, as counted above.
    let copied = 21 + 9 + 9;
    let (changed, without) = (copied + 5, copied + 5 + 11);
    let mut of_rows = Vec::new();
    for (i, (sequence, _)) in rows.iter().enumerate() {
        if i == copied {
            sets[1] = 2;
        }
        if i == changed {
            sets[2] = 1;
        }
        if i == without {
            sets[3] = 0;
        }
        of_rows.push(sets[*sequence]);
    }
    of_rows
}

fn check(path: &Path, layers: &[(u32, usize)], cache: Cache, what: &str) {
    let sets = [
        EditSet::default(),
        edits(1, layers, Parts::Turning),
        edits(2, layers, Parts::Both),
        edits(3, &layers[..1], Parts::Offsets),
    ];
    // Every sequence with the same edits: the graph of `Hook::attach`.
    let alone = sets.each_ref().map(|edits| {
        let mut raw = Raw::new(path, cache);
        if !edits.is_empty() {
            // SAFETY: dropped before the context.
            raw.hook = Some(unsafe { Hook::attach(raw.ctx, edits).unwrap() });
        }
        story(&mut raw, |raw, sequence, _| raw.remove(sequence))
    });
    let mut raw = Raw::new(path, cache);
    // SAFETY: dropped before the context.
    raw.hook = Some(unsafe { Hook::attach(raw.ctx, &EditSet::default()).unwrap() });
    let mixed = story(&mut raw, |raw, sequence, set| {
        let before: Vec<usize> = (0..SEQUENCES).map(|s| raw.held(s)).collect();
        let hook = raw.hook.as_mut().unwrap();
        // SAFETY: nobody else uses the context.
        unsafe { hook.set_edits_of(sequence, &sets[set], 0..usize::MAX) }.unwrap();
        raw.lengths[sequence] = 0;
        for (s, held) in before.into_iter().enumerate() {
            let expected = if s == sequence { 0 } else { held };
            assert_eq!(raw.held(s), expected, "{what}: sequence {s}");
        }
    });
    let of_rows = sets_of_rows(&mixed);
    for (i, (row, set)) in mixed.iter().zip(of_rows).enumerate() {
        assert!(
            *row == alone[set][i],
            "{what}, {cache:?}: row {i}, set {set}"
        );
        for (other, rows) in alone.iter().enumerate() {
            let same = *row == rows[i];
            assert!(same == (other == set), "{what}: row {i} is that of {other}");
        }
    }
    assert_eq!(raw.hook.as_ref().unwrap().n_loaded(), 2, "{what}");
}

#[test]
fn a_mixed_batch_equals_batches_of_one_set_bit_for_bit() {
    let _alone = testkit::alone();
    let layers: Vec<(u32, usize)> = (0..30).map(|layer| (layer, 576)).collect();
    let quantised = [UNIFIED, SPLIT].map(|cache| Cache {
        quantised: true,
        n_ubatch: 512,
        ..cache
    });
    for cache in [UNIFIED, SPLIT].into_iter().chain(quantised) {
        check(&testkit::base_model(), &layers, cache, "SmolLM2");
    }
}

#[test]
fn also_with_other_kinds_of_attention_and_memory() {
    let _alone = testkit::alone();
    let folder = Folder::new();
    let names = [
        "gpt2",
        "olmoe",
        "deepseek2",
        "qwen3next",
        "jamba",
        "lfm2",
        "granitehybrid",
    ];
    let forms = forms::all().into_iter();
    let named = forms.filter(|form| names.contains(&form.tiny.architecture.as_str()));
    let mut tried = 0;
    for form in named.chain([forms::cohere2()]) {
        let name = &form.tiny.architecture;
        let path: PathBuf = form.tiny.write(folder.root(), name);
        for cache in [UNIFIED, SPLIT] {
            check(&path, &form.attention, cache, name);
        }
        tried += 1;
    }
    assert_eq!(tried, names.len() + 1);
}
