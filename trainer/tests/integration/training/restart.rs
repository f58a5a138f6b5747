//! A run whose rate proves too high starts over at the next lower one.

use jola_trainer::method::{ClosedShares, Method, Sparsity};
use jola_trainer::model::Precision;
use jola_trainer::train::{Event, Rate, RowScores, Settings, State, Trial};

use super::resume::{copy, run, Keeper};
use super::runs::SETTINGS;
use super::support::model;

/// A run that is about to begin at a rate that a trial of no loss at all has found, on so many
/// rows.
fn promised(state: &State, rate: f64, n_rows: usize) -> State {
    let mut state = copy(state);
    state.counters.rate = Some(rate);
    state.counters.trials = vec![Trial {
        rate,
        loss: Some(0.0),
        choice: None,
        tokens: 1,
        scores: RowScores {
            losses: vec![0.0; n_rows],
            exact: vec![true; n_rows],
        },
    }];
    state
}

fn rates(watched: &Keeper) -> Vec<f64> {
    let rate = |event: &Event| match event {
        Event::Restart { rate } => Some(*rate),
        _ => None,
    };
    watched.events.iter().filter_map(rate).collect()
}

/// No rate keeps the promise of this trial, so that the run goes down to the lowest.
#[test]
fn a_rate_that_no_run_bears_is_lowered_and_the_run_starts_over() {
    let model = model(Precision::F32);
    let methods = [Method::Jola, Method::Ungated];
    for method in methods {
        let settings = |lr| Settings {
            method: method.clone(),
            sparsity: Sparsity::Target(ClosedShares::both(0.0)),
            lr,
            steps: 24,
            ..SETTINGS
        };
        let auto = settings(Rate::Auto);
        let (_, begun) = run(&model, &auto, None, &[1]);
        let start = promised(&begun.states[0], 0.01, 8);
        assert_eq!(start.counters.step, 0);
        let (found, watched) = run(&model, &auto, Some(&start), &[2, 16, 26]);
        assert_eq!(rates(&watched), [3e-3, 1e-3], "{method:?}");
        let (expected, _) = run(&model, &settings(Rate::Fixed(1e-3)), None, &[]);
        assert!(found == expected, "{method:?}: as at the rate itself");
        // A checkpoint of any of the three gives the same.
        assert!(watched.states.len() == 3);
        for state in &watched.states {
            let (resumed, _) = run(&model, &auto, Some(state), &[]);
            assert!(resumed == expected, "{method:?}: {:?}", state.counters);
        }
    }
}

/// Ten rows ended at a hundredth of the right rate, with nothing learned, since a run that had
/// closed nine tenths of its gates was held against a trial that had closed none.
#[test]
fn what_closed_gates_have_lost_does_not_lower_the_rate() {
    let model = model(Precision::F32);
    let settings = Settings {
        lr: Rate::Auto,
        steps: 24,
        ..SETTINGS
    };
    let (_, begun) = run(&model, &settings, None, &[1]);
    let start = promised(&begun.states[0], 0.01, 8);
    let (_, watched) = run(&model, &settings, Some(&start), &[]);
    assert_eq!(rates(&watched), [0.0; 0]);
}

#[test]
fn a_rate_that_the_user_gave_stays() {
    let model = model(Precision::F32);
    let settings = Settings {
        sparsity: Sparsity::Target(ClosedShares::both(0.0)),
        lr: Rate::Fixed(0.3),
        steps: 24,
        ..SETTINGS
    };
    let (_, begun) = run(&model, &settings, None, &[1]);
    let mut start = promised(&begun.states[0], 0.3, 8);
    start.counters.rate = None;
    let (_, watched) = run(&model, &settings, Some(&start), &[]);
    assert_eq!(rates(&watched), [0.0; 0]);
}
