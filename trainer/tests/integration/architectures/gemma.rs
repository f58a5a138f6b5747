//! Gemma 3 270M as its users serve it, quantised: `make test-gemma` downloads it.
//!
//! llama.cpp also rounds what is multiplied with a quantised matrix, to 8 bits, so that the
//! two cannot agree to the last digit. They must agree on the best token where there is a
//! clear one, and in their predictions as a whole.

use std::path::{Path, PathBuf};

use jola_edit::gguf::Gguf;
use jola_trainer::method::export;
use jola_trainer::model::{Batch, Model, Precision};
use llama_jola::{Context, ContextParams, ModelParams};
use tch::{no_grad, Device, Kind, Tensor};

use super::compare::random_edits;

/// Largest mean KL divergence of llama.cpp's predictions from the reference, in nats.
const MEAN_KL: f64 = 1e-2;
/// Least share of positions with the same best token, of those with a clear one.
const SAME_WHERE_CLEAR: f64 = 0.99;
/// A best token is clear when it leads by this many logits.
const CLEAR_LEAD: f64 = 0.5;
/// Tokens that are compared.
const LENGTH: usize = 400;

fn model_path() -> PathBuf {
    let path = std::env::var_os("JOLA_GEMMA_MODEL").expect("JOLA_GEMMA_MODEL names the model");
    PathBuf::from(path)
}

/// The first tokens of a text that was written for tests.
fn tokens(model: &llama_jola::Model) -> Vec<i32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/text.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let mut tokens = model.tokenize_prompt(&text).unwrap();
    tokens.truncate(LENGTH);
    tokens
}

/// llama.cpp's logits [t, V] against the reference's.
fn assert_close(what: &str, llama: &[f32], reference: &Tensor) {
    let llama = Tensor::from_slice(llama)
        .view_as(reference)
        .to_kind(Kind::Double);
    let reference = reference.to_kind(Kind::Double);
    let (p, q) = (
        reference.log_softmax(-1, Kind::Double),
        llama.log_softmax(-1, Kind::Double),
    );
    let kl = (p.exp() * (&p - q)).sum_dim_intlist(-1, false, Kind::Double);
    let kl = f64::try_from(kl.mean(Kind::Double)).unwrap();
    let (top, _) = reference.topk(2, -1, true, true);
    let clear = (top.select(1, 0) - top.select(1, 1)).gt(CLEAR_LEAD);
    let same = llama
        .argmax(-1, false)
        .eq_tensor(&reference.argmax(-1, false));
    let count = |flags: &Tensor| f64::try_from(flags.sum(Kind::Double)).unwrap();
    let both = same.logical_and(&clear);
    let (n_same, n_clear) = (count(&same), count(&clear));
    let share = count(&both) / n_clear;
    let n = reference.size()[0];
    println!(
        "{what}: mean KL {kl:.1e}; same best token {n_same} of {n}, {share:.4} of {n_clear} clear"
    );
    assert!(kl < MEAN_KL, "{what}: mean KL {kl}");
    assert!(share >= SAME_WHERE_CLEAR, "{what}: {share}");
}

#[test]
#[ignore = "downloads a model: make test-gemma"]
fn gemma_3_270m() {
    let path = model_path();
    let gguf = Gguf::open(&path).unwrap();
    let edits = random_edits(&gguf, 3);
    let model = llama_jola::Model::load(&path, &ModelParams::default()).unwrap();
    let tokens = tokens(&model);
    let params = ContextParams {
        n_ctx: 512,
        n_threads: 2,
        ..ContextParams::default()
    };
    let mut context = Context::new(&model, &params).unwrap();
    let plain = context.logits_of(&tokens).unwrap();
    context.set_edits(&edits).unwrap();
    let edited = context.logits_of(&tokens).unwrap();
    let reference = Model::load(&path, Precision::F32, Device::Cpu).unwrap();
    let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let batch = Batch::all_rows(&ids, Device::Cpu);
    let n_layer = reference.config.n_layer;
    let none = jola_trainer::model::LayerChange::none(n_layer);
    let edits = export::from_edit_set(&edits, n_layer, Precision::F32.math, Device::Cpu);
    assert_close(
        "unedited",
        &plain,
        &no_grad(|| reference.forward(&batch, &none)),
    );
    assert_close(
        "edited",
        &edited,
        &no_grad(|| reference.forward(&batch, &edits)),
    );
}
