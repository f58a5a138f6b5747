//! A run that is cut off and continued gives what it would have given in one go.

use jola_trainer::method::{LoraConfig, Method, Sparsity};
use jola_trainer::model::{Model, Precision, Sequence};
use jola_trainer::train::{
    Event, Observer, Phase, Rate, Recipe, Settings, State, StepRecord, Trainer, ValidationRecord,
};
use jola_trainer::Error;
use tch::Tensor;

use super::runs::{bytes, SETTINGS};
use super::support::{model, questions, rows};

/// Keeps all records, and the state after some steps.
#[derive(Default)]
pub struct Keeper {
    pub steps: Vec<StepRecord>,
    pub validations: Vec<ValidationRecord>,
    pub events: Vec<Event>,
    lines: Vec<String>,
    /// Steps after which the state is kept.
    keep: Vec<usize>,
    pub states: Vec<State>,
    /// The state at the end.
    last: Option<State>,
    asked: usize,
}

impl Observer for Keeper {
    fn steps(&mut self, records: &[StepRecord]) {
        self.steps.extend_from_slice(records);
    }

    fn validated(&mut self, record: &ValidationRecord) {
        self.validations.push(*record);
    }

    fn log(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }

    fn event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }

    fn checkpoint_due(&mut self) -> bool {
        self.asked += 1;
        self.keep.contains(&self.asked)
    }

    fn checkpoint(&mut self, state: &State) {
        self.states.push(copy(state));
    }

    fn finished(&mut self, state: State) {
        self.last = Some(state);
    }
}

/// A state with tensors of its own.
pub fn copy(state: &State) -> State {
    let tensors = state.tensors.iter();
    State {
        counters: state.counters.clone(),
        tensors: tensors.map(|(n, t)| (n.clone(), t.copy())).collect(),
    }
}

/// A run from `state` on: the sidecar's bytes, and what was watched.
pub fn run(
    model: &Model,
    settings: &Settings,
    state: Option<&State>,
    keep: &[usize],
) -> (Vec<u8>, Keeper) {
    run_on(model, settings, [rows(24, 1), rows(8, 2)], state, keep)
}

/// [`run`] on these rows to train on and to validate with.
fn run_on(
    model: &Model,
    settings: &Settings,
    [train, valid]: [Vec<Sequence>; 2],
    state: Option<&State>,
    keep: &[usize],
) -> (Vec<u8>, Keeper) {
    let mut trainer = Trainer::new(model, settings, &train, &valid).unwrap();
    if let Some(state) = state {
        trainer.restore(state).unwrap();
    }
    let mut keeper = Keeper {
        keep: keep.to_vec(),
        ..Keeper::default()
    };
    let (trained, _) = trainer.run(&mut keeper).unwrap();
    (bytes(model, &trained), keeper)
}

/// What a record says apart from the clock.
fn without_clock(record: &StepRecord) -> StepRecord {
    StepRecord {
        tokens_per_second: 0.0,
        ..record.clone()
    }
}

/// Steps of the learn phase, its end, the prune phase, its end, and the polish phase before
/// and after validations: 60 steps are 15 + 24 + 21.
#[test]
fn a_run_continues_exactly_from_any_step() {
    let model = model(Precision::F32);
    let methods = [
        Method::Jola,
        Method::Ungated,
        Method::Lofit { heads: 3, l1: 1e-3 },
        Method::Lora(LoraConfig {
            rank: 2,
            alpha: 4.0,
            targets: vec!["attn_v".to_owned()],
        }),
    ];
    for method in methods {
        let settings = Settings {
            method: method.clone(),
            ..SETTINGS
        };
        let keep = [1, 7, 15, 16, 30, 39, 40, 47, 52, 59];
        let (whole, watched) = run(&model, &settings, None, &keep);
        assert_eq!(watched.states.len(), keep.len());
        for state in watched.states.iter().chain(&watched.last) {
            let step = state.counters.step;
            let (rest, resumed) = run(&model, &settings, Some(state), &[]);
            assert_eq!(whole, rest, "{method:?} continued after step {step}");
            let steps: Vec<StepRecord> = resumed.steps.iter().map(without_clock).collect();
            let expected: Vec<StepRecord> =
                watched.steps[step..].iter().map(without_clock).collect();
            assert_eq!(steps, expected, "{method:?} continued after step {step}");
            let later = watched.validations.iter().filter(|v| v.step > step);
            assert_eq!(
                resumed.validations,
                later.copied().collect::<Vec<_>>(),
                "{method:?} continued after step {step}"
            );
        }
    }
}

/// In every stage of a path, in its prune and in its polish phase, and among the trials of
/// learning rates.
#[test]
fn a_path_continues_exactly_from_any_stage() {
    let model = model(Precision::F32);
    let settings = Settings {
        sparsity: Sparsity::Path,
        lr: Rate::Auto,
        steps: 72,
        ..SETTINGS
    };
    let keep = [1, 12, 18, 19, 26, 29, 33, 40, 45, 52, 60, 63, 71];
    let (whole, watched) = run(&model, &settings, None, &keep);
    assert!(watched.states.len() >= 9, "{}", watched.states.len());
    let is_trial = |event: &&Event| matches!(event, Event::Trial(_));
    let trials = |keeper: &Keeper| keeper.events.iter().filter(is_trial).count();
    assert!(trials(&watched) >= 3);
    for state in &watched.states {
        let step = state.counters.step;
        let (rest, resumed) = run(&model, &settings, Some(state), &[]);
        assert_eq!(whole, rest, "continued after step {step}");
        let later = watched.validations.iter().filter(|v| v.step > step);
        assert_eq!(resumed.validations, later.copied().collect::<Vec<_>>());
        let done = state.counters.trials.len();
        assert_eq!(done + trials(&resumed), trials(&watched));
    }
}

/// Where two gates of sixteen do far worse than all, as they do with two answers, the last stage's
/// steps go to the edit of all heads; where they serve, as with one answer, to theirs.
#[test]
fn the_last_stage_trains_the_edit_on_that_serves() {
    let model = model(Precision::F32);
    let settings = Settings {
        sparsity: Sparsity::Path,
        steps: 120,
        ..SETTINGS
    };
    for (n_answers, what, open) in [(2, "edit of all heads", 16), (1, "sparse edit", 2)] {
        let rows = || {
            [questions(24, 1), questions(48, 2)].map(|mut rows| {
                rows.retain(|row| n_answers == 2 || row.tokens[0] == 20);
                rows
            })
        };
        let keep = [90, 100, 110];
        let (whole, watched) = run_on(&model, &settings, rows(), None, &keep);
        let Keeper {
            lines, validations, ..
        } = &watched;
        let line = format!("the last stage trains the {what} on");
        assert!(lines.contains(&line), "{lines:?} {validations:?}");
        let after = settings.plan().end(1);
        for record in watched.steps.iter().filter(|record| record.step > after) {
            let now_open: usize = record.open.values().sum();
            assert_eq!(
                (record.phase, now_open),
                (Phase::Polish, open),
                "{record:?}"
            );
        }
        assert_eq!(watched.states.len(), keep.len());
        for state in &watched.states {
            let (rest, _) = run_on(&model, &settings, rows(), Some(state), &[]);
            assert_eq!(whole, rest, "continued after step {}", state.counters.step);
        }
    }
}

#[test]
fn records_tell_when_each_gate_closed() {
    let model = model(Precision::F32);
    let (_, watched) = run(&model, &SETTINGS, None, &[]);
    let steps: Vec<usize> = watched.steps.iter().map(|record| record.step).collect();
    assert_eq!(steps, (1..=SETTINGS.steps).collect::<Vec<_>>());
    let mut open = [[true; 8]; 2]; // two layers of four heads
    for record in &watched.steps {
        for (half, name) in ["scale", "offset"].iter().enumerate() {
            let turned = [(&record.opened, true), (&record.closed, false)];
            for (list, now) in turned {
                for &(layer, head) in list.get(*name).into_iter().flatten() {
                    assert_ne!(open[half][layer * 4 + head], now, "{record:?}");
                    open[half][layer * 4 + head] = now;
                }
            }
            let count = open[half].iter().filter(|open| **open).count();
            assert_eq!(record.open[*name], count, "{record:?}");
        }
    }
    assert_eq!(open.as_flattened().iter().filter(|open| **open).count(), 4);
    assert!(watched.steps.iter().any(|record| record.lambda > 0.0));
}

#[test]
fn a_state_of_other_parameters_is_refused() {
    let model = model(Precision::F32);
    let (_, watched) = run(&model, &SETTINGS, None, &[3]);
    let settings = Settings {
        method: Method::Ungated,
        ..SETTINGS
    };
    let (train, valid) = (rows(24, 1), rows(8, 2));
    let mut state = copy(&watched.states[0]);
    let additive = |(name, _): &(String, _)| !name.starts_with("scale.vectors");
    state.tensors.retain(additive);
    let mut trainer = Trainer::new(&model, &settings, &train, &valid).unwrap();
    match trainer.restore(&state) {
        Err(Error::State { what }) => assert_eq!(what, "scale.vectors.value is missing"),
        other => panic!("{other:?}"),
    }
}

/// With a rate this high the loss on held-out rows grows at once.
#[test]
fn patience_stops_a_run_and_the_best_is_kept() {
    let model = model(Precision::F32);
    let settings = |patience| Settings {
        method: Method::Ungated,
        lr: Rate::Fixed(0.3),
        patience,
        ..SETTINGS
    };
    let (patient, all) = run(&model, &settings(0), None, &[]);
    let (hasty, some) = run(&model, &settings(1), None, &[]);
    assert_eq!(all.validations.len(), SETTINGS.recipe.validations);
    let first_worse = all.validations.iter().position(|v| !v.best).unwrap();
    assert_eq!(some.validations, all.validations[..=first_worse]);
    assert_eq!(some.steps.len(), all.validations[first_worse].step);
    // A run that could not write its result is continued from its end, and does nothing more.
    let (again, nothing) = run(&model, &settings(1), some.last.as_ref(), &[]);
    assert_eq!(again, hasty);
    assert!(nothing.steps.is_empty() && nothing.validations.is_empty());
    let best_later = all.validations[first_worse..].iter().any(|v| v.best);
    assert_eq!(patient == hasty, !best_later);
}

/// In a long polish phase the rate falls once for each validation, and what is validated is the
/// mean of where it has fallen to, in which each end counts as much as all before it.
#[test]
fn the_mean_of_the_ends_of_cycles_is_validated() {
    let model = model(Precision::F32);
    let settings = Settings {
        method: Method::Ungated,
        steps: 220,
        patience: 0,
        ..SETTINGS
    };
    let keep: Vec<usize> = (1..settings.steps).collect();
    let (whole, watched) = run(&model, &settings, None, &keep);
    assert_eq!(watched.validations.len(), settings.recipe.validations);
    for state in watched.states.iter().step_by(50).chain(&watched.last) {
        let (rest, _) = run(&model, &settings, Some(state), &[]);
        assert_eq!(whole, rest, "continued after step {}", state.counters.step);
    }
    let named = |state: &State, name: &str| {
        let mut tensors = state.tensors.iter();
        tensors.find(|(own, _)| own == name).unwrap().1.copy()
    };
    let mut means: Vec<(String, Tensor)> = Vec::new();
    // The state after the last of them is that of the end.
    for record in &watched.validations[..settings.recipe.validations - 1] {
        let mut states = watched.states.iter();
        let state = states
            .find(|state| state.counters.step == record.step)
            .unwrap();
        let values = state.tensors.iter();
        let names = values.filter_map(|(name, _)| name.strip_suffix(".value"));
        means = names
            .map(|name| {
                let end = named(state, &format!("{name}.value"));
                let before = means.iter().find(|(own, _)| own == name);
                let mean = before.map_or(end.copy(), |(_, before)| (before + end) / 2.0);
                (name.to_owned(), mean)
            })
            .collect();
        assert!(!means.is_empty());
        for (name, mean) in &means {
            let own = named(state, &format!("mean.{name}"));
            // A few float32 roundings of numbers of the order of one.
            assert!((&own - mean).abs().max().double_value(&[]) < 1e-6, "{name}");
            if record.best {
                assert_eq!(own, named(state, &format!("best.{name}")), "{name}");
            }
        }
        assert_eq!(watched.steps[record.step].lr, 0.05, "the next cycle's rate");
    }
}

/// Each stage of a long path has cycles, and where the last trains an edit on, it goes on with its
/// mean.
#[test]
fn a_path_with_cycles_continues_exactly() {
    let model = model(Precision::F32);
    let settings = Settings {
        sparsity: Sparsity::Path,
        steps: 750,
        patience: 0,
        ..SETTINGS
    };
    let rows = || [questions(24, 1), questions(48, 2)];
    let keep: Vec<usize> = (1..settings.steps).step_by(60).collect();
    let (whole, watched) = run_on(&model, &settings, rows(), None, &keep);
    assert!(watched.lines.iter().any(|line| line.ends_with(" on")));
    assert!(watched.states.len() >= 12);
    for state in &watched.states {
        let (rest, _) = run_on(&model, &settings, rows(), Some(state), &[]);
        assert_eq!(whole, rest, "continued after step {}", state.counters.step);
    }
}

/// The recipe says which validation is the best: the paper's goes by the loss.
#[test]
fn the_best_has_most_rows_exact_or_the_lowest_loss() {
    let (model, valid) = (model(Precision::F32), rows(64, 2));
    let validations = |best_by_loss| {
        let settings = Settings {
            method: Method::Ungated,
            lr: Rate::Fixed(0.3),
            recipe: Recipe {
                best_by_loss,
                validations: 30,
                ..Recipe::DEFAULT
            },
            ..SETTINGS
        };
        let (train, mut keeper) = (rows(24, 1), Keeper::default());
        let trainer = Trainer::new(&model, &settings, &train, &valid).unwrap();
        trainer.run(&mut keeper).unwrap();
        keeper.validations
    };
    let (by_rows, by_loss) = (validations(false), validations(true));
    let kept = |all: &[ValidationRecord]| all.iter().rfind(|v| v.best).unwrap().validation;
    let (most, lowest) = (kept(&by_rows), kept(&by_loss));
    assert!(by_loss.iter().all(|v| v.validation.loss >= lowest.loss));
    assert!(by_rows
        .iter()
        .all(|v| !v.validation.is_better(&most, valid.len())));
    assert!(most.exact > lowest.exact && most.loss > lowest.loss);
}
