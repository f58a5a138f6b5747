//! The hook in every attention form: what goes into its nodes and what comes out, read by
//! an eval callback and compared with the edit computed here.

use std::collections::BTreeMap;
use std::ffi::{c_void, CStr, CString};
use std::path::Path;
use std::ptr::NonNull;

use jola_edit::gguf::Gguf;
use jola_edit::graph::GraphError;
use jola_edit::{BaseShape, DenseEdit, EditSet};
use llama_cpp_sys_2 as sys;
use llama_jola::hook::Hook;
use llama_jola::{Context, Error, ModelParams};

use super::compare::{params, tokens, CONTEXT, LENGTH};
use testkit::logits::relative_error;
use testkit::tiny::forms::{self, Form};
use testkit::tiny::{Tiny, VOCABULARY};
use testkit::Random;

/// Head outputs by layer, row-major [LENGTH, width].
#[derive(Default)]
struct Captured {
    before: BTreeMap<u32, Vec<f32>>,
    after: BTreeMap<u32, Vec<f32>>,
}

/// The layer of a tensor named `<what>-<layer>`.
///
/// # Safety
/// `tensor` is null or live.
unsafe fn layer_of(tensor: *const sys::ggml_tensor, what: &str) -> Option<u32> {
    if tensor.is_null() {
        return None;
    }
    // SAFETY: a live tensor's name is a C string.
    let name = unsafe { CStr::from_ptr(sys::ggml_get_name(tensor)) };
    let (found, layer) = name.to_str().ok()?.rsplit_once('-')?;
    (found == what).then(|| layer.parse().ok())?
}

/// Copies the hook's input and output. llama.cpp may give the output another name, so it
/// is known by what it is computed from: the sum whose first operand is the hook's product.
unsafe extern "C" fn capture(tensor: *mut sys::ggml_tensor, ask: bool, user: *mut c_void) -> bool {
    // SAFETY: llama.cpp passes a live tensor and the pointer given in the parameters.
    let (captured, before, after) = unsafe {
        let captured = &mut *user.cast::<Captured>();
        let is_sum = (*tensor).op == sys::GGML_OP_ADD;
        let after = layer_of((*tensor).src[0], "kqv_out_scaled").filter(|_| is_sum);
        (captured, layer_of(tensor, "kqv_out"), after)
    };
    let (target, layer) = match (before, after) {
        (Some(layer), _) => (&mut captured.before, layer),
        (_, Some(layer)) => (&mut captured.after, layer),
        _ => return !ask,
    };
    if !ask {
        // SAFETY: the tensor is computed, float32 and contiguous; `values` holds all of it.
        unsafe {
            let mut values = vec![0f32; sys::ggml_nelements(tensor) as usize];
            let bytes = std::mem::size_of_val(values.as_slice());
            sys::ggml_backend_tensor_get(tensor, values.as_mut_ptr().cast(), 0, bytes);
            // The first of that name: BERT's graph calls the product with W_O so, too.
            target.entry(layer).or_insert(values);
        }
    }
    true
}

/// Logits [LENGTH, V] (of an encoder the head outputs of layer 1) under `edits`, and what the hook read and wrote.
fn run(path: &Path, edits: &EditSet) -> (Vec<f32>, Captured) {
    let mut captured = Box::<Captured>::default();
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let mut tokens: Vec<i32> = tokens(3).iter().map(|&token| token as i32).collect();
    let mut wanted = vec![1i8; LENGTH];
    // SAFETY: the calls follow llama.h; results are checked; the hook goes before the context.
    let outputs = unsafe {
        let model =
            sys::llama_model_load_from_file(path.as_ptr(), sys::llama_model_default_params());
        assert!(!model.is_null(), "llama.cpp does not load {path:?}");
        let mut params = sys::llama_context_default_params();
        params.n_ctx = CONTEXT;
        params.n_threads = 2;
        params.n_threads_batch = 2;
        params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
        params.cb_eval = Some(capture);
        params.cb_eval_user_data = std::ptr::from_mut(&mut *captured).cast();
        let ctx = NonNull::new(sys::llama_init_from_model(model, params)).expect("a context");
        let hook = Hook::attach(ctx, edits).unwrap();
        let mut batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), LENGTH as i32);
        batch.logits = wanted.as_mut_ptr();
        assert_eq!(sys::llama_decode(ctx.as_ptr(), batch), 0);
        let logits = sys::llama_get_logits(ctx.as_ptr());
        let encoder = sys::llama_get_memory(ctx.as_ptr()).is_null();
        let outputs = match encoder {
            true => captured.before[&1].clone(),
            false => std::slice::from_raw_parts(logits, LENGTH * VOCABULARY).to_vec(),
        };
        drop(hook);
        sys::llama_free(ctx.as_ptr());
        sys::llama_model_free(model);
        outputs
    };
    (outputs, *captured)
}

/// Rows of the given widths.
fn random_rows(attention: &[(u32, usize)]) -> EditSet {
    let mut random = Random::new(9);
    let mut row =
        |width: usize, mean: f32| (0..width).map(|_| mean + 0.3 * random.normal()).collect();
    let layers = attention.iter().map(|&(layer, width)| {
        let (factor, add) = (Some(row(width, 1.0)), Some(row(width, 0.0)));
        (layer, DenseEdit::new(factor, add).unwrap())
    });
    EditSet {
        layers: layers.collect(),
    }
}

fn check(form: &Form) {
    let name = format!("{}, {}", form.tiny.architecture, form.what);
    let folder = tempfile::tempdir().unwrap();
    let path = form.tiny.write(folder.path(), "tiny");
    let edits = random_rows(&form.attention);
    let (logits, captured) = run(&path, &edits);
    let layers: Vec<u32> = form.attention.iter().map(|(layer, _)| *layer).collect();
    assert!(
        captured.before.keys().eq(&layers),
        "{name}: {:?}",
        captured.before.keys()
    );
    assert!(
        captured.after.keys().eq(&layers),
        "{name}: {:?}",
        captured.after.keys()
    );
    for (&(layer, width), (before, after)) in form
        .attention
        .iter()
        .zip(captured.before.values().zip(captured.after.values()))
    {
        assert_eq!(
            before.len(),
            LENGTH * width,
            "{name}: width of layer {layer}"
        );
        let edit = &edits.layers[&layer];
        let (factor, add) = (edit.factor().unwrap(), edit.add().unwrap());
        for (i, (z, found)) in before.iter().zip(after).enumerate() {
            let scaled = z * factor[i % width];
            let expected = scaled + add[i % width];
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{name}: layer {layer}, {i}"
            );
        }
        assert!(
            before.iter().any(|z| z.abs() > 1e-3),
            "{name}: layer {layer} has no output"
        );
    }
    let (plain, unedited) = run(&path, &EditSet::default());
    assert!(unedited.after.is_empty());
    let effect = relative_error(&logits, &plain);
    println!("{name}: effect {effect:.2}");
    assert!(
        effect > 0.01 && effect.is_finite(),
        "{name}: effect {effect}"
    );
    check_shape(form, &path);
    check_other_layers(form, &path);
}

/// The shape that a sidecar is checked against tells the same widths.
fn check_shape(form: &Form, path: &Path) {
    let shape = BaseShape::from_gguf(&Gguf::open(path).unwrap()).unwrap();
    for &(layer, width) in &form.attention {
        let heads = shape.head_count[layer as usize];
        assert_eq!(
            (heads * shape.head_dim) as usize,
            width,
            "{}",
            form.tiny.architecture
        );
    }
}

/// An edit of a layer without attention is refused, and the layer named.
fn check_other_layers(form: &Form, path: &Path) {
    let with = |layer: u32| form.attention.iter().any(|(l, _)| *l == layer);
    let n_layer = BaseShape::from_gguf(&Gguf::open(path).unwrap())
        .unwrap()
        .block_count;
    let Some(without) = (0..n_layer).find(|layer| !with(*layer)) else {
        return;
    };
    let (first, width) = form.attention[0];
    let error = attach(path, &random_rows(&[(first, width), (without, width)])).unwrap_err();
    match error {
        Error::Graph(GraphError::NeverFired { layers }) => assert_eq!(layers, [without]),
        other => panic!("{}: {other}", form.tiny.architecture),
    }
}

fn attach(path: &Path, edits: &EditSet) -> Result<(), Error> {
    let model = llama_jola::Model::load(path, &ModelParams::default()).unwrap();
    Context::new(&model, &params()).unwrap().set_edits(edits)
}

#[test]
fn every_attention_form() {
    for form in forms::all() {
        check(&form);
    }
}

/// The two layers of a model that has no such edits to offer.
fn attach_to(tiny: &Tiny) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path(), "tiny");
    attach(&path, &random_rows(&[(0, 64), (1, 64)])).unwrap_err()
}

/// A graph that never passes the hook: refused, with the layers.
#[test]
fn models_without_attention_are_refused() {
    match attach_to(&forms::mamba()) {
        Error::Graph(GraphError::NeverFired { layers }) => assert_eq!(layers, [0, 1]),
        other => panic!("{other}"),
    }
}

/// Output projections that do not take the head outputs.
#[test]
fn models_with_folded_weights_are_refused() {
    assert!(matches!(attach_to(&forms::folded()), Error::Folded(_)));
}

/// Encoder, decoder and the decoder's look at the encoder share their layers' numbers.
#[test]
fn models_with_encoder_and_decoder_are_refused() {
    assert!(matches!(attach_to(&forms::t5()), Error::EncoderDecoder(_)));
}
