//! Logits of a directory: of transformers, of the GGUF made of it, and of llama.cpp.

use jola_edit::gguf::Splits;
use jola_trainer::base::{open, Base};
use jola_trainer::model::{Batch, LayerChange, Model, Precision};
use llama_jola::{CacheType, Context, ContextParams, FlashAttention, ModelParams};
use safetensors::Dtype;
use tch::{no_grad, Device};
use testkit::logits::relative_error;

use super::fixture::{tokens, write_gguf, Golden, CASES};

/// The reference model's logits [40, V].
fn reference(base: &dyn Base) -> Vec<f32> {
    let model = Model::from_base(base, Precision::F32, Device::Cpu).unwrap();
    let none = LayerChange::none(model.config.n_layer);
    let batch = Batch::all_rows(&tokens(), Device::Cpu);
    let logits = no_grad(|| model.forward(&batch, &none));
    Vec::<f32>::try_from(logits.flatten(0, -1)).unwrap()
}

fn llama(path: &std::path::Path) -> Vec<f32> {
    let model = llama_jola::Model::load(path, &ModelParams::default()).unwrap();
    let params = ContextParams {
        n_ctx: 64,
        n_threads: 2,
        type_k: CacheType::F32,
        type_v: CacheType::F32,
        flash_attention: FlashAttention::Off,
        ..ContextParams::default()
    };
    let mut context = Context::new(&model, &params).unwrap();
    let tokens: Vec<i32> = tokens().iter().map(|&token| token as i32).collect();
    context.logits_of(&tokens).unwrap()
}

#[test]
fn every_source_gives_the_same_logits() {
    for case in CASES {
        let golden = Golden::read(case);
        let folder = tempfile::tempdir().unwrap();
        golden.write(folder.path());
        let directory = open(folder.path()).unwrap();
        let path = write_gguf(&*directory, folder.path().join("twin.gguf"));
        let own = reference(&*directory);
        let twin = relative_error(&reference(&Splits::open(&path).unwrap()), &own);
        let transformers = relative_error(&own, &golden.logits);
        let llama = relative_error(&own, &llama(&path));
        println!(
            "{case:14} GGUF {twin:.1e}, transformers {transformers:.1e}, llama.cpp {llama:.1e}"
        );
        assert!(twin <= 1e-5, "{case}: {twin}");
        assert!(transformers <= 1e-4, "{case}: {transformers}");
        // ggml looks GELU up in a table of float16.
        let limit = if case.starts_with("gemma") {
            3e-3
        } else {
            1e-4
        };
        assert!(llama <= limit, "{case}: {llama}");
    }
}

#[test]
fn goldens_tell_the_scalings_apart() {
    let plain = Golden::read("llama").logits;
    for case in ["llama3", "llama-linear", "llama-yarn"] {
        let effect = relative_error(&Golden::read(case).logits, &plain);
        assert!(effect > 1e-2, "{case}: {effect}");
    }
}

#[test]
fn shards_and_number_formats_change_nothing() {
    let golden = Golden::read("llama3");
    let folder = tempfile::tempdir().unwrap();
    golden.write(folder.path());
    let expected = reference(&*open(folder.path()).unwrap());
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let folder = tempfile::tempdir().unwrap();
        golden.write_sharded(folder.path(), dtype);
        let found = reference(&*open(folder.path()).unwrap());
        assert_eq!(found, expected, "{dtype:?}");
    }
}

#[test]
fn older_and_newer_config_files_say_the_same() {
    let golden = Golden::read("llama3");
    let folder = tempfile::tempdir().unwrap();
    golden.write(folder.path());
    let newer = reference(&*open(folder.path()).unwrap());
    let mut config = golden.config.clone();
    let keys = config.as_object_mut().unwrap();
    let mut scaling = keys.remove("rope_parameters").unwrap();
    let base_frequency = scaling
        .as_object_mut()
        .unwrap()
        .remove("rope_theta")
        .unwrap();
    keys.insert("rope_scaling".into(), scaling);
    keys.insert("rope_theta".into(), base_frequency);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(reference(&*open(folder.path()).unwrap()), newer);
}
