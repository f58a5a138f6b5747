//! Models with recurrent layers beside attention, whose sequences can neither go back nor part
//! from each other: one prompt after another, and four at once, against each one alone.

use std::collections::BTreeMap;

use jola_edit::{HeadVectors, LayerEdit};
use llama_jola::eval::{log_likelihoods, log_softmax, Question};
use llama_jola::generate::generate;
use llama_jola::sampler::SamplerParams;
use llama_jola::{CacheType, Context, ContextParams, EditSet, Model, ModelParams, Token};
use testkit::logits::argmax;
use testkit::tiny::{forms, VOCABULARY};
use testkit::{Folder, Random};

/// Largest difference of a log-likelihood, in nats: 32-bit floats summed in another order. Seen
/// 3.5e-5, times three.
const TOLERANCE: f64 = 1e-4;

const N_PREDICT: usize = 6;

fn context(model: &Model, edits: &EditSet, n_seq_max: u32) -> Context {
    let params = ContextParams {
        n_ctx: 64,
        n_threads: 1,
        n_seq_max,
        type_k: CacheType::F32,
        type_v: CacheType::F32,
        ..ContextParams::default()
    };
    let mut context = Context::new(model, &params).unwrap();
    context.set_edits(edits).unwrap();
    context
}

/// An edit of one head of each layer with attention.
fn edits(model: &Model, layers: &[(u32, usize)]) -> EditSet {
    let shape = model.shape();
    let mut random = Random::new(3);
    let mut vectors = |limit: f32| {
        let values = (0..shape.head_dim).map(|_| limit * random.signed());
        let values = values.collect();
        Some(HeadVectors {
            heads: vec![1],
            values,
        })
    };
    let layers: BTreeMap<u32, LayerEdit> = layers
        .iter()
        .map(|(layer, _)| {
            let edit = LayerEdit {
                mul: vectors(0.5),
                add: vectors(0.5),
            };
            (*layer, edit)
        })
        .collect();
    let sidecar = shape.sidecar("random", layers);
    model.compose(&[(&sidecar, 0.5)]).unwrap()
}

/// Prompts of several lengths that begin with the same tokens.
fn prompts() -> Vec<Vec<Token>> {
    let mut random = Random::new(6);
    let mut tokens = |len: usize| -> Vec<Token> {
        (0..len)
            .map(|_| 4 + random.below(VOCABULARY - 4) as Token)
            .collect()
    };
    let beginning = [vec![1], tokens(3)].concat();
    [5, 2, 7, 3, 4]
        .map(|len| [beginning.clone(), tokens(len)].concat())
        .into()
}

/// The log-probabilities behind each token, computed in a context of their own.
fn alone(model: &Model, edits: &EditSet, tokens: &[Token]) -> Vec<Vec<f64>> {
    let logits = context(model, edits, 1).logits_of(tokens).unwrap();
    let rows = logits.chunks(model.n_vocab());
    rows.map(|row| log_softmax(row).to_vec()).collect()
}

#[test]
fn hybrid_models_answer_at_once_as_alone() {
    let _alone = testkit::alone();
    let folder = Folder::new();
    let names = ["qwen3next", "jamba", "lfm2", "granitehybrid"];
    let forms = forms::all().into_iter();
    let hybrids = forms.filter(|form| names.contains(&form.tiny.architecture.as_str()));
    let mut tried = 0;
    for form in hybrids {
        let name = &form.tiny.architecture;
        let path = form.tiny.write(folder.root(), name);
        let model = Model::load(&path, &ModelParams::default()).unwrap();
        assert!(model.is_recurrent(), "{name}");
        let edits = edits(&model, &form.attention);
        let prompts = prompts();
        for n_seq_max in [1, 4] {
            let what = format!("{name}, {n_seq_max} sequences");
            generates(&model, &edits, &prompts, n_seq_max, &what);
            scores(&model, &edits, &prompts, n_seq_max, &what);
        }
        tried += 1;
    }
    assert_eq!(tried, names.len());
}

/// Each token chosen is the likeliest one behind those before it.
fn generates(model: &Model, edits: &EditSet, prompts: &[Vec<Token>], n_seq_max: u32, what: &str) {
    let mut context = context(model, edits, n_seq_max);
    let greedy = SamplerParams::greedy();
    let found = generate(&mut context, prompts, N_PREDICT, &greedy, |_, _| true).unwrap();
    assert_eq!(found.len(), prompts.len());
    for (prompt, answer) in prompts.iter().zip(&found) {
        assert!(
            answer.ended || answer.tokens.len() == N_PREDICT,
            "{what}: {answer:?}"
        );
        let rows = alone(model, edits, &[&prompt[..], &answer.tokens].concat());
        for (token, row) in answer.tokens.iter().zip(&rows[prompt.len() - 1..]) {
            let best = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lag = best - row[*token as usize];
            assert!(lag < TOLERANCE, "{what}: token {token} is {lag} behind");
        }
        if answer.ended {
            let row: Vec<f32> = rows.last().unwrap().iter().map(|p| *p as f32).collect();
            assert!(model.is_eog(argmax(&row) as Token), "{what}: {answer:?}");
        }
    }
}

fn scores(model: &Model, edits: &EditSet, prompts: &[Vec<Token>], n_seq_max: u32, what: &str) {
    // Some begin alike, one is the beginning of another.
    let continuations: [Vec<Token>; 4] = [vec![7, 8, 9], vec![7, 8], vec![7, 30, 31, 32], vec![50]];
    let questions: Vec<Question> = prompts
        .iter()
        .map(|prompt| Question {
            prompt,
            continuations: &continuations,
        })
        .collect();
    let mut context = context(model, edits, n_seq_max);
    let found = log_likelihoods(&mut context, &questions, 64, |_| ()).unwrap();
    let mut worst = 0f64;
    for (prompt, found) in prompts.iter().zip(&found) {
        for (continuation, found) in continuations.iter().zip(found) {
            let rows = alone(model, edits, &[&prompt[..], continuation].concat());
            let places = continuation.iter().zip(&rows[prompt.len() - 1..]);
            let expected: f64 = places.map(|(token, row)| row[*token as usize]).sum();
            worst = worst.max((found - expected).abs());
        }
    }
    println!("{what}: log-likelihoods {worst:.1e} apart");
    // One prompt's answer in another one's place would be seen.
    let firsts: Vec<f64> = found.iter().map(|scores| scores[0]).collect();
    let apart = |a: usize, b: usize| (firsts[a] - firsts[b]).abs() > 100.0 * TOLERANCE;
    assert!(
        (1..firsts.len()).all(|b| (0..b).all(|a| apart(a, b))),
        "{what}: {firsts:?}"
    );
    assert!(worst < TOLERANCE, "{what}: {worst:.1e}");
}
