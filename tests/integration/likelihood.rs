//! Log-likelihoods of continuations, many at once, against one decoding after another.

use llama_jola::eval::{log_likelihoods, log_softmax, Question};
use llama_jola::{
    CacheType, Context, ContextParams, Model, ModelParams, Sidecar, SpecialTokens, Token,
};

use crate::base::f32_base;
use testkit::{alone, sidecars};

/// Largest difference of a continuation's log-likelihood, in natural-log units. 32-bit floats
/// that are summed in another order: seen 1e-5. A wrong token or mask is off by 1 and more.
const TOLERANCE: f64 = 1e-3;

const PROMPTS: [&str; 3] = [
    "Message: Where is my parcel?\nTeam:",
    "Message: The invoice is wrong, and nobody answers the phone.\nTeam:",
    "Message: Can it be repaired?\nTeam:",
];
/// Some with a beginning in common, one the beginning of another, one of a single token.
const CONTINUATIONS: [&str; 6] = [
    " shipping",
    " shipping and billing, please",
    " shipping and repairs",
    " repairs",
    " the very best team that we have",
    "!",
];

#[test]
fn continuations_are_as_likely_together_as_alone() {
    let _alone = alone();
    let model = Model::load(f32_base(), &ModelParams::default()).unwrap();
    let tokens = |text: &str, add| {
        let special = SpecialTokens { add, parse: false };
        model.tokenize(text, special).unwrap()
    };
    let prompts = PROMPTS.map(|text| tokens(text, true));
    let continuations = CONTINUATIONS.map(|text| tokens(text, false));
    let edit = Sidecar::read(sidecars::golden()).unwrap();
    let edits = model.compose(&[(&edit, 0.5)]).unwrap();
    let context = |n_seq_max| {
        let params = ContextParams {
            n_ctx: 64,
            n_threads: 2,
            n_seq_max,
            type_k: CacheType::F32,
            type_v: CacheType::F32,
            ..ContextParams::default()
        };
        let mut context = Context::new(&model, &params).unwrap();
        context.set_edits(&edits).unwrap();
        context
    };

    let mut plain = context(1);
    let mut expected = |prompt: &[Token], continuation: &[Token]| {
        let logits = plain.logits_of(&[prompt, continuation].concat()).unwrap();
        let rows: Vec<&[f32]> = logits.chunks(model.n_vocab()).collect();
        let places = continuation.iter().zip(prompt.len() - 1..);
        places
            .map(|(t, i)| log_softmax(rows[i])[*t as usize])
            .sum::<f64>()
    };
    let expected = prompts
        .each_ref()
        .map(|prompt| continuations.each_ref().map(|c| expected(prompt, c)));

    let questions = prompts.each_ref().map(|prompt| Question {
        prompt,
        continuations: &continuations,
    });
    // Everything in one batch; little room, so that groups and trees are split; one sequence.
    for (n_seq_max, at_once) in [(32, 512), (3, 40), (1, 8)] {
        let mut finished = 0;
        let done = |rows| finished = rows;
        let found = log_likelihoods(&mut context(n_seq_max), &questions, at_once, done).unwrap();
        assert_eq!(finished, PROMPTS.len());
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            let error = (found - expected).abs();
            assert!(error < TOLERANCE, "{n_seq_max}: {found}, alone {expected}");
        }
    }
}
