//! Which of two sets of rotary factors llama.cpp takes follows from the context that one
//! sequence may have, whichever way a row is scored and however many sequences there are.

use std::path::Path;
use std::sync::Arc;

use llama_jola::eval::{log_softmax, Item, Metric, Params, Task};
use llama_jola::{Context, ContextParams, EditedTokens, Model, ModelParams, Token};

use super::cases::{longrope, usual};
use super::compare;
use testkit::logits::relative_error;

/// The original context; llama.cpp rounds contexts up to multiples of 256.
const ORIGINAL: u32 = 512;
/// Tokens of a row that are its prompt.
const PROMPT: usize = 20;

fn model(folder: &Path) -> Model {
    let mut tiny = usual("phi3");
    longrope(&mut tiny, ORIGINAL as usize);
    let path = tiny.write(folder, "tiny");
    Model::load(path, &ModelParams::default()).unwrap()
}

fn with_context(n_ctx: u32, n_seq_max: u32) -> ContextParams {
    ContextParams {
        n_ctx,
        n_seq_max,
        ..compare::params()
    }
}

fn row(seed: u64) -> Vec<Token> {
    let tokens = compare::tokens(seed).into_iter();
    tokens.map(|token| token as Token).collect()
}

fn task(metric: Metric, parallel: u32) -> Task {
    let item = |seed| {
        let mut prompt = row(seed);
        let response = vec![prompt.split_off(PROMPT)];
        Item {
            prompt,
            response,
            accepted: vec![String::new()],
            lead: String::new(),
            choices: Arc::default(),
            line: seed as usize,
        }
    };
    Task {
        params: Params {
            metric,
            n_predict: 12,
            per_token: false,
            parallel,
            edited: EditedTokens::All,
        },
        items: (1..7).map(item).collect(),
    }
}

/// Logits, perplexity and answers, as contexts of `n_ctx` for each of `n_seq` sequences give them.
fn seen(model: &Model, n_ctx: u32, n_seq: u32) -> (Vec<f32>, f64, Vec<Option<String>>) {
    let mut context = Context::new(model, &with_context(n_ctx, n_seq)).unwrap();
    let logits = context.logits_of(&row(1)).unwrap();
    let run = |metric| {
        let task = task(metric, n_seq);
        let params = task.context_params(with_context(n_ctx, 1), model).unwrap();
        task.run(&mut Context::new(model, &params).unwrap(), |_| ())
            .unwrap()
    };
    let answers = run(Metric::Bleu).predictions.into_iter();
    let answers = answers.map(|prediction| prediction.answer).collect();
    (logits, run(Metric::Perplexity).score, answers)
}

/// The perplexity of the rows by the logits of a context of one sequence.
fn perplexity(model: &Model, n_ctx: u32) -> f64 {
    let mut context = Context::new(model, &with_context(n_ctx, 1)).unwrap();
    let (mut sum, mut count) = (0.0, 0);
    for seed in 1..7 {
        let tokens = row(seed);
        let logits = context.logits_of(&tokens).unwrap();
        let rows: Vec<&[f32]> = logits.chunks(model.n_vocab()).collect();
        for place in PROMPT..tokens.len() {
            sum -= log_softmax(rows[place - 1])[tokens[place] as usize];
            count += 1;
        }
    }
    (sum / f64::from(count)).exp()
}

#[test]
fn the_number_of_sequences_makes_no_difference_and_the_context_does() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let short = seen(&model, ORIGINAL, 1);
    let long = seen(&model, ORIGINAL + 1, 1);
    let effect = relative_error(&short.0, &long.0);
    assert!(effect > 0.01, "the factors differ by {effect:.1e}");
    for (n_ctx, one) in [(ORIGINAL, short), (ORIGINAL + 1, long)] {
        let many = seen(&model, n_ctx, 4);
        let error = relative_error(&many.0, &one.0);
        assert!(error < 1e-5, "{n_ctx}: {error:.1e}");
        assert_eq!(many.2, one.2, "{n_ctx}");
        let expected = perplexity(&model, n_ctx);
        for found in [one.1, many.1] {
            assert!(
                (found / expected - 1.0).abs() < 1e-4,
                "{n_ctx}: {found} {expected}"
            );
        }
    }
}
