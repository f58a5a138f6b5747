//! What a caller of the library can get wrong ends in an error, and threads do not get into each
//! other's way.

use std::path::PathBuf;

use llama_jola::sampler::{Sampler, SamplerParams};
use llama_jola::{
    Adapters, Batch, Context, ContextParams, EditSet, Error, Lora, Model, ModelParams,
};
use testkit::Folder;

const TEXT: &str = "The ferry leaves at";

fn model() -> Model {
    Model::load(testkit::base_model(), &ModelParams::default()).unwrap()
}

fn params() -> ContextParams {
    ContextParams {
        n_ctx: 32,
        n_threads: 1,
        n_seq_max: 2,
        ..ContextParams::default()
    }
}

fn lora(folder: &Folder) -> PathBuf {
    let path = folder.path("lora.gguf");
    let adapter = testkit::Lora {
        architecture: "llama",
        kind: "lora",
        alpha: 2.0,
        rank: 2,
        layers: 2,
        targets: &[("attn_output", 576, 576)],
        size: 0.1,
        seed: 1,
    };
    adapter.write(&path).unwrap();
    path
}

#[test]
fn ids_beyond_the_vocabulary_are_errors() {
    let model = Model::load_vocab(testkit::base_model()).unwrap();
    let n_vocab = model.n_vocab() as i32;
    for token in [-1, n_vocab, i32::MAX, i32::MIN] {
        let expected = format!("token {token} is outside the vocabulary of {n_vocab}");
        let errors = [
            model.token_to_piece(token).unwrap_err(),
            model.token_text(token).unwrap_err(),
            model.detokenize(&[0, token]).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.to_string(), expected);
        }
        assert!(!model.is_eog(token));
    }
    assert!(model.token_text(n_vocab - 1).is_ok());
}

#[test]
fn what_a_context_does_not_have_is_an_error() {
    let model = model();
    let mut context = Context::new(&model, &params()).unwrap();
    let tokens = model.tokenize_prompt(TEXT).unwrap();
    let mut sampler = Sampler::new(&SamplerParams::greedy());
    let error = sampler.sample(&mut context, 0).unwrap_err();
    assert!(matches!(error, Error::NoLogits { index: 0 }), "{error}");

    let mut batch = Batch::new();
    batch.push(tokens[0], usize::MAX, 0, true);
    let error = context.decode(&batch).unwrap_err();
    assert!(matches!(error, Error::ContextFull { .. }), "{error}");
    for sequence in [2, usize::MAX - 1] {
        let mut batch = Batch::new();
        batch.push(tokens[0], 0, sequence, true);
        let error = context.decode(&batch).unwrap_err();
        assert!(matches!(error, Error::SequenceRange { .. }), "{error}");
    }
    let mut batch = Batch::new();
    batch.push(tokens[0], 0, usize::MAX, true);
    let error = context.decode(&batch).unwrap_err();
    assert!(matches!(error, Error::NoSequence), "{error}");

    context.logits_of(&tokens).unwrap();
    // Where llama.cpp would stop the process.
    context.truncate_sequence(2, 0);
    context.truncate_sequence(usize::MAX, 0);
    context.truncate_sequence(0, usize::MAX);
    let last = tokens.len() as i32 - 1;
    assert!(sampler.sample(&mut context, last).is_ok());
    for index in [last + 1, -last - 2, i32::MAX, i32::MIN] {
        let error = sampler.sample(&mut context, index).unwrap_err();
        assert!(matches!(error, Error::NoLogits { .. }), "{error}");
    }
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let folder = Folder::new();
    let path = lora(&folder);
    let (model, other) = (model(), model());
    let adapters = Adapters {
        edits: EditSet::default(),
        loras: vec![(Lora::load(&other, &path).unwrap(), 1.0)],
    };
    let mut context = Context::new(&model, &params()).unwrap();
    let error = context.set_adapters(&adapters).unwrap_err();
    assert!(matches!(error, Error::LoraModel { .. }), "{error}");
    let tokens = model.tokenize_prompt(TEXT).unwrap();
    assert!(context.logits_of(&tokens).is_ok());
}

#[test]
fn adapters_come_and_go_while_other_threads_decode() {
    let folder = Folder::new();
    let path = lora(&folder);
    let model = model();
    let tokens = model.tokenize_prompt(TEXT).unwrap();
    let plain = Context::new(&model, &params())
        .unwrap()
        .logits_of(&tokens)
        .unwrap();
    let rounds = 12;
    std::thread::scope(|scope| {
        // Two threads load and drop adapters of the model, one with a context that uses them.
        scope.spawn(|| {
            for _ in 0..20 * rounds {
                drop(Lora::load(&model, &path).unwrap());
            }
        });
        scope.spawn(|| {
            let mut context = Context::new(&model, &params()).unwrap();
            for _ in 0..rounds {
                let adapters = Adapters {
                    edits: EditSet::default(),
                    loras: vec![(Lora::load(&model, &path).unwrap(), 1.0)],
                };
                context.set_adapters(&adapters).unwrap();
                // The context keeps what it uses.
                drop(adapters);
                assert!(context.logits_of(&tokens).unwrap() != plain);
            }
        });
        // A third goes through the model's adapters for every new context.
        for _ in 0..rounds {
            let mut context = Context::new(&model, &params()).unwrap();
            assert!(context.logits_of(&tokens).unwrap() == plain);
        }
    });
}
