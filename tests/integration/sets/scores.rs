//! Scores of several edits in one pass, against one by one.

use jola_edit::EditSet;
use llama_jola::eval::{log_softmax, Item, Metric, Params, Report, Task};
use llama_jola::{
    Batch, CacheType, Context, ContextParams, EditedTokens, Model, ModelParams, Token,
};
use testkit::tiny::{forms, VOCABULARY};
use testkit::{Folder, Random};

use super::{edits, Parts};

fn task(metric: Metric, edited: EditedTokens) -> Task {
    let mut random = Random::new(5);
    let mut tokens = |n: usize| -> Vec<Token> {
        (0..n)
            .map(|_| 4 + random.below(VOCABULARY - 4) as Token)
            .collect()
    };
    let beginning = tokens(6);
    let items = (0..9).map(|i| Item {
        prompt: [beginning.clone(), tokens(2 + i % 4)].concat(),
        response: vec![tokens(3)],
        accepted: vec![format!("t{i}")],
        lead: String::new(),
        choices: Default::default(),
        line: i + 1,
    });
    Task {
        items: items.collect(),
        params: Params {
            metric,
            n_predict: 5,
            per_token: false,
            parallel: 4,
            edited,
        },
    }
}

#[test]
fn several_edits_score_at_once_as_one_by_one() {
    let folder = Folder::new();
    for name in ["command-r", "jamba"] {
        let named = |form: &forms::Form| form.tiny.architecture == name;
        let form = forms::all().into_iter().find(named).unwrap();
        let path = form.tiny.write(folder.root(), name);
        let model = Model::load(path, &ModelParams::default()).unwrap();
        let sets = [
            EditSet::default(),
            edits(1, &form.attention, Parts::Both),
            edits(2, &form.attention, Parts::Turning),
        ];
        for metric in [Metric::Perplexity, Metric::RougeL] {
            let mut scores = Vec::new();
            for edited in WHICH {
                let task = task(metric, edited);
                let given = ContextParams {
                    n_ctx: 64,
                    n_threads: 1,
                    type_k: CacheType::F32,
                    type_v: CacheType::F32,
                    ..ContextParams::default()
                };
                let params = task.context_params_for(given, &model, sets.len()).unwrap();
                let mut context = Context::new(&model, &params).unwrap();
                let mut seen = 0;
                let each = task
                    .run_each(&mut context, &sets, |done| seen = done)
                    .unwrap();
                assert_eq!(seen, sets.len() * task.items.len());
                scores.push(each.iter().map(|report| report.score).collect::<Vec<f64>>());
                for (edits, report) in sets.iter().zip(&each) {
                    context.set_edits(edits).unwrap();
                    let alone = task.run(&mut context, |_| ()).unwrap();
                    same(report, &alone);
                    if metric == Metric::Perplexity {
                        one_by_one(&mut context, &task, edits, report);
                    }
                }
            }
            if metric == Metric::Perplexity {
                // Without edits there is nothing to choose; with them, each choice is another.
                assert!(scores.iter().all(|s| close(s[0], scores[0][0])));
                let mut all: Vec<f64> = scores.iter().flat_map(|s| s[1..].to_vec()).collect();
                all.push(scores[0][0]);
                all.sort_by(f64::total_cmp);
                assert!(
                    all.windows(2).all(|pair| !close(pair[0], pair[1])),
                    "{all:?}"
                );
            }
        }
    }
}

const WHICH: [EditedTokens; 3] = [
    EditedTokens::All,
    EditedTokens::Prompt,
    EditedTokens::Generated,
];

/// The rows' scores from all logits of a row, decoded by itself.
fn one_by_one(context: &mut Context, task: &Task, edits: &EditSet, report: &Report) {
    let loaded = context.load_edits(edits).unwrap();
    for (item, prediction) in task.items.iter().zip(&report.predictions) {
        let n = item.prompt.len();
        let positions = match task.params.edited {
            EditedTokens::All => 0..usize::MAX,
            EditedTokens::Prompt => 0..n,
            EditedTokens::Generated => n - 1..usize::MAX,
        };
        context.clear();
        context.assign_edits(0, &loaded, positions).unwrap();
        let response = &item.response[0];
        let mut batch = Batch::new();
        for (position, token) in item.prompt.iter().chain(response).enumerate() {
            batch.push(*token, position, 0, true);
        }
        context.decode(&batch).unwrap();
        let surprise: f64 = response.iter().enumerate().fold(0.0, |sum, (i, token)| {
            let row = context.logits((n - 1 + i) as i32);
            sum - log_softmax(row)[*token as usize]
        });
        let expected = (surprise / response.len() as f64).exp();
        let found = prediction.score.unwrap();
        assert!(close(found, expected), "{found} {expected}");
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * b.abs()
}

fn same(found: &Report, alone: &Report) {
    assert_eq!(found.n, alone.n);
    for (found, alone) in found.predictions.iter().zip(&alone.predictions) {
        assert_eq!(found.answer, alone.answer);
        let (a, b) = (found.score.unwrap(), alone.score.unwrap());
        assert!(close(a, b), "{a} {b}");
    }
}
