//! The same rows without and with edits, and whether the difference may be chance.

use jola_edit::EditSet;
use serde::Serialize;

use super::{score, Metric, Report, Task};
use crate::context::Context;
use crate::lora::Adapters;
use crate::stats::{bootstrap, mcnemar, paired_bootstrap};
use crate::Error;

/// Two reports on the same rows.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The report without edits.
    pub unedited: Report,
    /// The report with edits.
    pub edited: Report,
    /// Edited minus unedited score.
    pub difference: f64,
    /// 95 % interval of the difference, by paired bootstrap.
    pub difference_ci95: [f64; 2],
    /// Whether the difference may be chance.
    pub test: Test,
}

/// A test of the hypothesis that edits make no difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Test {
    /// Exact two-sided McNemar test, for accuracies.
    Mcnemar {
        /// Rows right only without edits.
        only_unedited: usize,
        /// Rows right only with edits.
        only_edited: usize,
        /// p-value.
        p: f64,
    },
    /// Paired bootstrap over rows, two-sided.
    PairedBootstrap {
        /// p-value; never below 1 / (resamples + 1).
        p: f64,
    },
}

/// Runs `task` with the plain model and with `adapters`, which stay attached, in `context`,
/// which [`Task::context_params_for`] describes for two sets: edits in the same batches as the
/// plain model, LoRA adapters after it. `done(k)` is called with the number of rows finished so
/// far, of twice the rows.
///
/// # Errors
/// Those of [`Task::run`] and [`Context::set_adapters`].
pub fn compare(
    task: &Task,
    context: &mut Context,
    adapters: &Adapters,
    mut done: impl FnMut(usize),
) -> Result<Comparison, Error> {
    context.set_adapters(&Adapters::default())?;
    if adapters.loras.is_empty() {
        let sets = [EditSet::default(), adapters.edits.clone()];
        let reports = task.run_each(context, &sets, done)?;
        context.set_adapters(adapters)?;
        let [unedited, edited] = <[Report; 2]>::try_from(reports).expect("a report of each set");
        return Ok(Comparison::new(unedited, edited));
    }
    let unedited = task.run(context, &mut done)?;
    context.set_adapters(adapters)?;
    let edited = task.run(context, |rows| done(unedited.n + rows))?;
    Ok(Comparison::new(unedited, edited))
}

impl Comparison {
    /// Compares reports of one metric on the same rows.
    pub fn new(unedited: Report, edited: Report) -> Self {
        let of = |report: &Report, rows: &[usize]| score(report.metric, &report.predictions, rows);
        let test = if edited.metric.is_accuracy() {
            let pairs = unedited.predictions.iter().zip(&edited.predictions);
            let count = |right: [bool; 2]| {
                let found = pairs.clone().map(|(a, b)| [is_right(a), is_right(b)]);
                found.filter(|found| *found == right).count()
            };
            let (only_unedited, only_edited) = (count([true, false]), count([false, true]));
            Test::Mcnemar {
                only_unedited,
                only_edited,
                p: mcnemar(only_unedited, only_edited),
            }
        } else {
            // Perplexities differ by factors: the logarithm is the mean that rows add to.
            let scaled = |score: f64| match edited.metric {
                Metric::Perplexity => score.ln(),
                _ => score,
            };
            Test::PairedBootstrap {
                p: paired_bootstrap(edited.n, |rows| {
                    scaled(of(&edited, rows)) - scaled(of(&unedited, rows))
                }),
            }
        };
        Self {
            difference: edited.score - unedited.score,
            difference_ci95: bootstrap(edited.n, |rows| of(&edited, rows) - of(&unedited, rows)),
            test,
            unedited,
            edited,
        }
    }
}

fn is_right(prediction: &super::Prediction) -> bool {
    prediction.correct == Some(true)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::eval::Prediction;

    /// Reports of the rows' numbers.
    fn comparison(metric: Metric, rows: [&[f64]; 2]) -> Comparison {
        let report = |rows: &[f64]| {
            let prediction = |x: &f64| Prediction {
                line: 1,
                answer: None,
                accepted: Vec::new(),
                correct: metric.is_accuracy().then_some(*x == 1.0),
                score: None,
                numbers: match metric {
                    Metric::Perplexity => vec![*x, 1.0],
                    _ => vec![*x],
                },
            };
            Report::new(
                metric,
                rows.iter().map(prediction).collect(),
                Instant::now(),
            )
        };
        Comparison::new(report(rows[0]), report(rows[1]))
    }

    #[test]
    fn accuracies_are_compared_row_by_row() {
        let found = comparison(
            Metric::Exact,
            [
                &[1., 0., 0., 0., 1., 0., 0., 0.],
                &[0., 1., 1., 1., 1., 1., 1., 1.],
            ],
        );
        assert_eq!(found.difference, 5.0 / 8.0);
        let test = Test::Mcnemar {
            only_unedited: 1,
            only_edited: 6,
            p: mcnemar(1, 6),
        };
        assert_eq!(found.test, test);
        assert!(found.difference_ci95[0] > 0.0 && found.difference_ci95[1] <= 1.0);
    }

    #[test]
    fn perplexities_are_compared_on_the_same_rows() {
        // Row by row a little better, though the rows differ a lot.
        let unedited: Vec<f64> = (0..50).map(|i| f64::from(i % 7)).collect();
        let edited: Vec<f64> = unedited.iter().map(|x| x - 0.1).collect();
        let found = comparison(Metric::Perplexity, [&unedited, &edited]);
        assert!(
            found.difference < 0.0 && found.difference_ci95[1] < 0.0,
            "{found:?}"
        );
        assert!(matches!(found.test, Test::PairedBootstrap { p } if p < 0.001));
        assert!(
            found.unedited.ci95[0] < found.edited.ci95[1],
            "apart, they overlap"
        );
    }
}
