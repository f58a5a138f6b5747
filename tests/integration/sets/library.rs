//! By the library: what is counted, kept, refused.

use jola_edit::graph::GraphError;
use jola_edit::EditSet;
use llama_jola::{Batch, Context, ContextParams, Error, Model, ModelParams, Token};

use super::{edits, Parts};

const WIDTH: usize = 9 * 64;

pub(super) fn model() -> Model {
    Model::load(testkit::base_model(), &ModelParams::default()).unwrap()
}

pub(super) fn context(model: &Model) -> Context {
    let params = ContextParams {
        n_ctx: 64,
        n_threads: 1,
        n_seq_max: 4,
        ..ContextParams::default()
    };
    Context::new(model, &params).unwrap()
}

pub(super) fn layers() -> Vec<(u32, usize)> {
    (0..30).map(|layer| (layer, WIDTH)).collect()
}

pub(super) fn tokens(model: &Model) -> Vec<Token> {
    let text = "The ferry to the island leaves at nine, and the last one back is at";
    model.tokenize_prompt(text).unwrap()
}

/// The logits behind `tokens`, decoded from `begin` on.
pub(super) fn last(
    context: &mut Context,
    sequence: usize,
    tokens: &[Token],
    begin: usize,
) -> Vec<f32> {
    let mut batch = Batch::new();
    for (position, token) in tokens.iter().enumerate().skip(begin) {
        batch.push(*token, position, sequence, position + 1 == tokens.len());
    }
    context.decode(&batch).unwrap();
    context.logits(-1).to_vec()
}

#[test]
fn what_was_set_for_all_stays_with_the_others() {
    let (model, layers) = (model(), layers());
    let (all, own) = (
        edits(1, &layers, Parts::Both),
        edits(2, &layers, Parts::Both),
    );
    let tokens = tokens(&model);
    let mut expected = context(&model);
    expected.set_edits(&all).unwrap();
    let with_all = last(&mut expected, 0, &tokens, 0);
    expected.set_edits(&own).unwrap();
    let with_own = last(&mut expected, 0, &tokens, 0);

    let mut found = context(&model);
    found.set_edits(&all).unwrap();
    let beginning = &tokens[..tokens.len() - 1];
    last(&mut found, 0, beginning, 0);
    // Sequence 0 keeps its keys and values, though graphs are built anew.
    found.set_edits_of(1, &own).unwrap();
    assert_eq!(found.n_loaded_edits(), 2);
    let mut whole = context(&model);
    whole.set_edits(&all).unwrap();
    last(&mut whole, 0, beginning, 0);
    let step = last(&mut whole, 0, &tokens, beginning.len());
    assert!(last(&mut found, 0, &tokens, beginning.len()) == step);
    assert!(last(&mut found, 1, &tokens, 0) == with_own);
    assert!(last(&mut found, 2, &tokens, 0) == with_all);
    // One set for all again.
    found.set_edits(&own).unwrap();
    assert_eq!(found.n_loaded_edits(), 0);
    assert!(last(&mut found, 0, &tokens, 0) == with_own);
}

#[test]
fn sets_are_counted_shared_and_freed() {
    let (model, layers) = (model(), layers());
    let mut context = context(&model);
    let sets: Vec<EditSet> = (0..9)
        .map(|seed| edits(seed, &layers, Parts::Both))
        .collect();
    for sequence in 0..4 {
        context.set_edits_of(sequence, &sets[0]).unwrap();
    }
    assert_eq!(context.n_loaded_edits(), 1);
    let few = context.loaded_edits_bytes();
    assert_eq!(few, 5 * 2 * 30 * WIDTH * 4);
    let kept: Vec<_> = sets
        .iter()
        .map(|set| context.load_edits(set).unwrap())
        .collect();
    assert_eq!(context.n_loaded_edits(), 9);
    assert_eq!(context.loaded_edits_bytes(), 17 * 2 * 30 * WIDTH * 4);
    context.assign_edits(1, &kept[5], 0..usize::MAX).unwrap();
    drop(kept);
    assert_eq!(context.n_loaded_edits(), 2);
    let none = EditSet::default();
    (0..4).for_each(|sequence| context.set_edits_of(sequence, &none).unwrap());
    assert_eq!(context.n_loaded_edits(), 0);
}

/// What is said of memory: a thousand sets and more of a small model, each of every head.
#[test]
fn a_thousand_sets_take_less_than_200_megabytes() {
    let (model, layers) = (model(), layers());
    let mut context = context(&model);
    let mut kept = Vec::new();
    for seed in 0..1024 {
        let set = edits(seed, &layers, Parts::Both);
        kept.push(context.load_edits(&set).unwrap());
    }
    assert_eq!(context.n_loaded_edits(), 1024);
    let bytes = context.loaded_edits_bytes();
    assert!(bytes < 200_000_000, "{bytes}");
    let tokens = tokens(&model);
    context.assign_edits(2, &kept[1000], 0..usize::MAX).unwrap();
    let found = last(&mut context, 2, &tokens, 0);
    let mut alone = self::context(&model);
    alone.set_edits(&edits(1000, &layers, Parts::Both)).unwrap();
    assert!(found == last(&mut alone, 0, &tokens, 0));
}

#[test]
fn an_edit_can_act_on_some_positions_only() {
    let (model, layers) = (model(), layers());
    let tokens = tokens(&model);
    let set = edits(1, &layers, Parts::Both);
    let mut context = context(&model);
    let loaded = context.load_edits(&set).unwrap();
    let half = tokens.len() / 2;
    let mut run = |positions| {
        context.assign_edits(0, &loaded, positions).unwrap();
        let mut batch = Batch::new();
        for (position, token) in tokens.iter().enumerate() {
            batch.push(*token, position, 0, true);
        }
        context.decode(&batch).unwrap();
        let rows = (0..tokens.len()).map(|i| context.logits(i as i32).to_vec());
        rows.collect::<Vec<_>>()
    };
    let [all, none] = [0..usize::MAX, 0..0].map(&mut run);
    let first = run(0..half);
    let second = run(half..usize::MAX);
    assert!(first[..half] == all[..half] && second[..half] == none[..half]);
    // What was edited is seen by what comes behind.
    for i in half..tokens.len() {
        assert!(first[i] != all[i] && first[i] != none[i]);
        assert!(second[i] != all[i] && second[i] != none[i]);
    }
}

/// What a sequence holds stays up to the first token that is edited otherwise.
#[test]
fn other_positions_drop_only_what_they_change() {
    let (model, layers) = (model(), layers());
    let tokens = tokens(&model);
    let set = edits(1, &layers, Parts::Both);
    let half = tokens.len() / 2;
    let mut fresh = context(&model);
    let loaded = fresh.load_edits(&set).unwrap();
    fresh.assign_edits(0, &loaded, half..usize::MAX).unwrap();
    last(&mut fresh, 0, &tokens[..half], 0);
    let expected = last(&mut fresh, 0, &tokens, half);

    let mut context = context(&model);
    let loaded = context.load_edits(&set).unwrap();
    // From none to those behind what is held, and on.
    last(&mut context, 0, &tokens[..half], 0);
    context.assign_edits(0, &loaded, half..usize::MAX).unwrap();
    assert!(last(&mut context, 0, &tokens, half) == expected);
    // One token more than is right is held: it goes.
    context
        .assign_edits(0, &loaded, tokens.len()..usize::MAX)
        .unwrap();
    last(&mut context, 0, &tokens[..half + 1], half);
    context.assign_edits(0, &loaded, half..usize::MAX).unwrap();
    assert!(last(&mut context, 0, &tokens, half) == expected);
}

#[test]
fn what_cannot_be_is_an_error_for_that_call_alone() {
    let (model, layers) = (model(), layers());
    let tokens = tokens(&model);
    let mut context = context(&model);
    let set = edits(1, &layers, Parts::Turning);
    context.set_edits_of(0, &set).unwrap();
    let before = last(&mut context, 0, &tokens, 0);
    context.truncate_sequence(0, 0);

    for sequence in [4, usize::MAX] {
        let errors = [
            context.set_edits_of(sequence, &set).unwrap_err(),
            context.copy_sequence(0, sequence).unwrap_err(),
            context.copy_sequence(sequence, 0).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::SequenceRange { .. }), "{error}");
        }
    }
    // Edits for other bases: wider, and of more layers.
    let wide = edits(2, &[(0, WIDTH), (3, WIDTH + 64)], Parts::Both);
    match context.set_edits_of(1, &wide) {
        Err(Error::Graph(GraphError::Width { layer: 3, .. })) => (),
        other => panic!("{other:?}"),
    }
    let deep = edits(2, &[(0, WIDTH), (35, WIDTH)], Parts::Both);
    match context.set_edits_of(1, &deep) {
        Err(Error::Graph(GraphError::NeverFired { layers })) => assert_eq!(layers, [35]),
        other => panic!("{other:?}"),
    }
    // A token that two sequences would make different things of.
    let mut batch = Batch::new();
    batch.push(tokens[0], 0, 2, false);
    batch.push_shared(tokens[1], 1, 2..4, true);
    context.decode(&batch).unwrap();
    context.set_edits_of(3, &set).unwrap();
    context.truncate_sequence(2, 0);
    match context.decode(&batch) {
        Err(Error::SharedToken { position: 1 }) => (),
        other => panic!("{other:?}"),
    }
    context.clear();
    context.set_edits_of(2, &set).unwrap();
    context.decode(&batch).unwrap();
    // Loaded for another context, or before.
    let mut other = self::context(&model);
    let foreign = other.load_edits(&set).unwrap();
    let error = context.assign_edits(1, &foreign, 0..9).unwrap_err();
    assert!(matches!(error, Error::OtherEdits), "{error}");
    other.set_edits(&set).unwrap();
    let error = other.assign_edits(1, &foreign, 0..9).unwrap_err();
    assert!(matches!(error, Error::OtherEdits), "{error}");

    context.clear();
    assert!(last(&mut context, 0, &tokens, 0) == before);
}

#[test]
fn only_sequences_of_one_set_share_a_beginning() {
    let (model, layers) = (model(), layers());
    let tokens = tokens(&model);
    let prompts = [&tokens[..], &tokens[..8]];
    let mut context = context(&model);
    assert_eq!(context.share_beginning(&prompts).unwrap(), 7);
    let set = edits(1, &layers, Parts::Both);
    context.set_edits_of(1, &set).unwrap();
    assert_eq!(context.share_beginning(&prompts).unwrap(), 0);
    for sequence in [0, 2, 3] {
        context.set_edits_of(sequence, &set).unwrap();
    }
    assert_eq!(context.share_beginning(&prompts).unwrap(), 7);
}
