//! Scores of several edits in one pass, against one by one.

use jola_edit::EditSet;
use llama_jola::eval::{Item, Metric, Params, Report, Task};
use llama_jola::{CacheType, Context, ContextParams, Model, ModelParams, Token};
use testkit::tiny::{forms, VOCABULARY};
use testkit::{Folder, Random};

use super::{edits, Parts};

fn task(metric: Metric) -> Task {
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
            let task = task(metric);
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
            let scores: Vec<f64> = each.iter().map(|report| report.score).collect();
            for (edits, report) in sets.iter().zip(&each) {
                context.set_edits(edits).unwrap();
                let alone = task.run(&mut context, |_| ()).unwrap();
                same(report, &alone);
            }
            if metric == Metric::Perplexity {
                assert!(scores[0] != scores[1] && scores[1] != scores[2]);
            }
        }
    }
}

fn same(found: &Report, alone: &Report) {
    assert_eq!(found.n, alone.n);
    for (found, alone) in found.predictions.iter().zip(&alone.predictions) {
        assert_eq!(found.answer, alone.answer);
        let (a, b) = (found.score.unwrap(), alone.score.unwrap());
        assert!((a - b).abs() <= 1e-4 * b.abs(), "{a} {b}");
    }
}
