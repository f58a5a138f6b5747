//! The built-in hook against an independent way in: an eval callback that rewrites the
//! head outputs on the host after each layer has computed them.

use std::ffi::{c_void, CStr, CString};
use std::ptr::NonNull;

use jola_edit::graph::GraphError;
use jola_edit::DenseEdit;
use llama_cpp_sys_2 as sys;
use llama_jola::hook::Hook;
use llama_jola::{
    Adapters, Batch, CacheType, Context, ContextParams, EditSet, Error, FlashAttention, Lora,
    Model, ModelParams,
};
use testkit::logits::relative_error;
use testkit::{Folder, Random};

const LAYERS: u32 = 30;
const WIDTH: usize = 9 * 64;
const TEXT: &str = "The ferry to the island leaves at nine, and the last one back is at";

/// Rows with values in ±`size`; every third layer lacks a scale, every fourth an offset.
fn random_edits(seed: u64, size: f32) -> EditSet {
    let mut random = Random::new(seed);
    let mut row = |base: f32| Some((0..WIDTH).map(|_| base + size * random.signed()).collect());
    let layers = (0..LAYERS).map(|layer| {
        let factor = if layer % 3 == 1 { None } else { row(1.0) };
        let add = if layer % 4 == 2 { None } else { row(0.0) };
        Some((layer, DenseEdit::new(factor, add).ok()?))
    });
    EditSet {
        layers: layers.flatten().collect(),
    }
}

fn model() -> Model {
    Model::load(testkit::base_model(), &ModelParams::default()).unwrap()
}

fn params() -> ContextParams {
    ContextParams {
        n_ctx: 256,
        n_threads: 2,
        ..ContextParams::default()
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|value| value.to_bits()).collect()
}

/// What the eval callback works with.
struct Callback {
    edits: EditSet,
    calls: usize,
}

/// Rewrites `kqv_out-<layer>` on the host: the same two roundings as ggml's mul and add.
unsafe extern "C" fn rewrite_head_outputs(
    tensor: *mut sys::ggml_tensor,
    ask: bool,
    user: *mut c_void,
) -> bool {
    // SAFETY: llama.cpp passes a live tensor and the pointer given in the parameters.
    let (name, state) = unsafe {
        (
            CStr::from_ptr(sys::ggml_get_name(tensor)),
            &mut *user.cast::<Callback>(),
        )
    };
    let layer = name
        .to_str()
        .ok()
        .and_then(|name| name.strip_prefix("kqv_out-")?.parse().ok());
    let Some(edit) = layer.and_then(|layer: u32| state.edits.layers.get(&layer)) else {
        return !ask;
    };
    if ask {
        return true;
    }
    state.calls += 1;
    // SAFETY: the tensor is F32 and computed; `values` holds all of its elements.
    unsafe {
        let len = sys::ggml_nelements(tensor) as usize;
        let mut values = vec![0f32; len];
        sys::ggml_backend_tensor_get(tensor, values.as_mut_ptr().cast(), 0, 4 * len);
        for (i, value) in values.iter_mut().enumerate() {
            if let Some(factor) = edit.factor() {
                *value *= factor[i % WIDTH];
            }
            if let Some(add) = edit.add() {
                *value += add[i % WIDTH];
            }
        }
        sys::ggml_backend_tensor_set(tensor, values.as_ptr().cast(), 0, 4 * len);
    }
    true
}

/// A context made with llama.cpp's C API alone, as an embedding program would.
struct RawContext {
    model: *mut sys::llama_model,
    ctx: NonNull<sys::llama_context>,
}

impl RawContext {
    fn new(flash: FlashAttention, callback: Option<&mut Callback>) -> Self {
        let path = CString::new(testkit::base_model().to_str().unwrap()).unwrap();
        // SAFETY: the calls follow llama.h; results are checked.
        unsafe {
            let model =
                sys::llama_model_load_from_file(path.as_ptr(), sys::llama_model_default_params());
            assert!(!model.is_null());
            let mut params = sys::llama_context_default_params();
            params.n_ctx = 256;
            params.n_threads = 2;
            params.n_threads_batch = 2;
            params.kv_unified = true;
            params.flash_attn_type = match flash {
                FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
                _ => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            };
            if let Some(callback) = callback {
                params.cb_eval = Some(rewrite_head_outputs);
                params.cb_eval_user_data = std::ptr::from_mut(callback).cast();
            }
            let ctx = sys::llama_init_from_model(model, params);
            Self {
                model,
                ctx: NonNull::new(ctx).expect("a context"),
            }
        }
    }

    /// Logits of the last of `tokens`, decoded from `position` on.
    fn decode(&mut self, tokens: &mut [i32]) -> Vec<f32> {
        // SAFETY: the context is alive; the batch borrows `tokens` during the call.
        unsafe {
            let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32);
            assert_eq!(sys::llama_decode(self.ctx.as_ptr(), batch), 0);
            let n_vocab =
                sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.model)) as usize;
            let logits = sys::llama_get_logits_ith(self.ctx.as_ptr(), -1);
            std::slice::from_raw_parts(logits, n_vocab).to_vec()
        }
    }
}

impl Drop for RawContext {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once, context first.
        unsafe {
            sys::llama_free(self.ctx.as_ptr());
            sys::llama_model_free(self.model);
        }
    }
}

/// Prompt processing and then token by token, where graphs are reused.
#[test]
fn equals_the_eval_callback_bit_for_bit() {
    let edits = random_edits(1, 0.2);
    let prompt = model().tokenize_prompt(TEXT).unwrap();
    for flash in [FlashAttention::Off, FlashAttention::On] {
        let mut callback = Callback {
            edits: edits.clone(),
            calls: 0,
        };
        let mut reference = RawContext::new(flash, Some(&mut callback));
        let mut hooked = RawContext::new(flash, None);
        // SAFETY: `hook` is dropped before `hooked`.
        let hook = unsafe { Hook::attach(hooked.ctx, &edits).unwrap() };
        let mut tokens = prompt.clone();
        for step in 0..6 {
            let expected = reference.decode(&mut tokens.clone());
            let found = hooked.decode(&mut tokens);
            assert!(bits(&found) == bits(&expected), "{flash:?}, step {step}");
            let best = (0..found.len())
                .max_by(|a, b| found[*a].total_cmp(&found[*b]))
                .unwrap();
            tokens = vec![best as i32];
        }
        drop(hook);
        drop(reference);
        assert_eq!(callback.calls, 6 * edits.layers.len());
    }
}

#[test]
fn attach_change_and_detach_between_decodes() {
    let model = model();
    let tokens = model.tokenize_prompt(TEXT).unwrap();
    let (a, b) = (random_edits(2, 0.2), random_edits(3, 0.2));
    let fresh = |edits: &EditSet| {
        let mut context = Context::new(&model, &params()).unwrap();
        context.set_edits(edits).unwrap();
        context.logits_of(&tokens).unwrap()
    };
    let mut context = Context::new(&model, &params()).unwrap();
    let plain = context.logits_of(&tokens).unwrap();
    context.set_edits(&a).unwrap();
    let with_a = context.logits_of(&tokens).unwrap();
    context.set_edits(&b).unwrap();
    let with_b = context.logits_of(&tokens).unwrap();
    context.set_edits(&EditSet::default()).unwrap();
    let detached = context.logits_of(&tokens).unwrap();

    assert!(
        relative_error(&with_a, &plain) > 0.05,
        "the edit must matter for this test to mean much"
    );
    assert!(relative_error(&with_b, &with_a) > 0.05);
    assert!(bits(&with_a) == bits(&fresh(&a)));
    assert!(bits(&with_b) == bits(&fresh(&b)));
    assert!(bits(&detached) == bits(&plain));
}

/// llama.cpp #26207 is this bug in another adapter: keys and values of earlier edits reused.
#[test]
fn a_change_of_edits_drops_cached_keys_and_values() {
    let mut hooked = RawContext::new(FlashAttention::Off, None);
    let mut tokens = model().tokenize_prompt(TEXT).unwrap();
    let held = |raw: &RawContext| {
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_seq_pos_max(sys::llama_get_memory(raw.ctx.as_ptr()), 0) }
    };
    hooked.decode(&mut tokens);
    assert_eq!(held(&hooked), tokens.len() as i32 - 1);
    // SAFETY: dropped below, before the context.
    let hook = unsafe { Hook::attach(hooked.ctx, &random_edits(4, 0.1)).unwrap() };
    assert_eq!(held(&hooked), -1);
    hooked.decode(&mut tokens);
    assert_eq!(held(&hooked), tokens.len() as i32 - 1);
    drop(hook);
    assert_eq!(held(&hooked), -1);
}

/// The same of another LoRA: what is decoded next sees nothing of what the former one left.
#[test]
fn a_change_of_loras_drops_cached_keys_and_values() {
    let (model, folder) = (model(), Folder::new());
    let lora = |name: &str, seed: u64| {
        let path = folder.path(name);
        let lora = testkit::Lora {
            architecture: "llama",
            kind: "lora",
            alpha: 4.0,
            rank: 2,
            layers: LAYERS,
            targets: &[("attn_v", 192, 576), ("attn_q", 576, 576)],
            size: 0.1,
            seed,
        };
        lora.write(&path).unwrap();
        Lora::load(&model, &path).unwrap()
    };
    let only = |lora: &Lora, strength: f32| Adapters {
        edits: EditSet::default(),
        loras: vec![(lora.clone(), strength)],
    };
    let (a, b) = (lora("a.gguf", 1), lora("b.gguf", 2));
    let tokens = model.tokenize_prompt(TEXT).unwrap();
    let (last, first) = tokens.split_last().unwrap();
    let last_alone = |context: &mut Context| {
        let mut batch = Batch::new();
        batch.push(*last, first.len(), 0, true);
        context.decode(&batch).unwrap();
        bits(context.logits(0))
    };
    let mut used = Context::new(&model, &params()).unwrap();
    used.set_adapters(&only(&a, 1.0)).unwrap();
    let mut seen = Vec::new();
    for next in [only(&b, 1.0), only(&b, -0.5), Adapters::default()] {
        used.logits_of(first).unwrap();
        let with_the_cache = last_alone(&mut used);
        used.logits_of(first).unwrap();
        used.set_adapters(&next).unwrap();
        let found = last_alone(&mut used);
        let mut fresh = Context::new(&model, &params()).unwrap();
        fresh.set_adapters(&next).unwrap();
        assert!(found == last_alone(&mut fresh), "{next:?}");
        assert!(found != with_the_cache && !seen.contains(&found));
        seen.push(found);
    }
}

#[test]
fn two_contexts_of_one_model_keep_their_own_edits() {
    let model = model();
    let tokens = model.tokenize_prompt(TEXT).unwrap();
    let alone: Vec<Vec<u32>> = [
        EditSet::default(),
        random_edits(5, 0.2),
        random_edits(6, 0.2),
    ]
    .iter()
    .map(|edits| {
        let mut context = Context::new(&model, &params()).unwrap();
        context.set_edits(edits).unwrap();
        bits(&context.logits_of(&tokens).unwrap())
    })
    .collect();
    let mut plain = Context::new(&model, &params()).unwrap();
    let mut first = Context::new(&model, &params()).unwrap();
    let mut second = Context::new(&model, &params()).unwrap();
    first.set_edits(&random_edits(5, 0.2)).unwrap();
    second.set_edits(&random_edits(6, 0.2)).unwrap();
    // At the same time, from three threads, twice.
    std::thread::scope(|scope| {
        for (context, expected) in [&mut plain, &mut first, &mut second]
            .into_iter()
            .zip(&alone)
        {
            let tokens = &tokens;
            scope.spawn(move || {
                for _ in 0..2 {
                    assert!(bits(&context.logits_of(tokens).unwrap()) == *expected);
                }
            });
        }
    });
}

/// With a quantised V cache llama.cpp rotates the values; the edit must act on the head
/// outputs after they were rotated back.
#[test]
fn an_edit_means_the_same_with_a_quantised_cache() {
    let model = model();
    let tokens = model.tokenize_prompt(TEXT).unwrap();
    let run = |kind: CacheType, edits: &EditSet| {
        let params = ContextParams {
            type_k: kind,
            type_v: kind,
            flash_attention: FlashAttention::On,
            ..params()
        };
        let mut context = Context::new(&model, &params).unwrap();
        context.set_edits(edits).unwrap();
        context.logits_of(&tokens).unwrap()
    };
    let (none, edits) = (EditSet::default(), random_edits(7, 0.3));
    let effect = relative_error(&run(CacheType::F16, &edits), &run(CacheType::F16, &none));
    let error = relative_error(&run(CacheType::Q8_0, &edits), &run(CacheType::F16, &edits));
    assert!(
        error < 0.2 * effect,
        "cache error {error}, effect of the edit {effect}"
    );
}

#[test]
fn rows_of_another_width_are_refused() {
    let mut edits = random_edits(8, 0.1);
    let row = Some(vec![0.5; WIDTH + 64]);
    edits.layers.insert(3, DenseEdit::new(row, None).unwrap());
    let mut context = Context::new(&model(), &params()).unwrap();
    match context.set_edits(&edits) {
        Err(Error::Graph(GraphError::Width {
            layer: 3,
            expected,
            found,
        })) => {
            assert_eq!((expected, found), (WIDTH + 64, WIDTH as i64));
        }
        other => panic!("{other:?}"),
    }
    // Nothing of the refused set is left behind.
    let tokens = context.model().tokenize_prompt(TEXT).unwrap();
    let after = context.logits_of(&tokens).unwrap();
    let mut plain = Context::new(context.model(), &params()).unwrap();
    assert!(bits(&after) == bits(&plain.logits_of(&tokens).unwrap()));
}

#[test]
fn a_layer_that_the_model_does_not_have_is_refused() {
    let edit = DenseEdit::new(None, Some(vec![0.5; WIDTH])).unwrap();
    let layers = [(LAYERS + 5, edit)];
    let mut context = Context::new(&model(), &params()).unwrap();
    let error = context
        .set_edits(&EditSet {
            layers: layers.into(),
        })
        .unwrap_err();
    assert!(error.to_string().contains("layer 35"), "{error}");
}
