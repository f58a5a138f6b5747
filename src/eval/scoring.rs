//! A task's way through the model: what is asked, and the score of what comes back.

use std::sync::Arc;
use std::time::Instant;

use jola_edit::EditSet;

use super::likelihood::{log_likelihoods, log_likelihoods_each, Question};
use super::task::{Item, Task};
use super::{generated, Metric, Prediction, Report};
use crate::context::Context;
use crate::generate::EditedTokens;
use crate::Error;

impl Task {
    /// Scores the model in `context`, which [`Self::context_params`] describes. `done(k)` is
    /// called with the number of rows finished so far.
    ///
    /// # Errors
    /// Those of [`log_likelihoods`] and [`crate::generate::generate`].
    pub fn run(&self, context: &mut Context, done: impl FnMut(usize)) -> Result<Report, Error> {
        let start = Instant::now();
        let predictions = if self.params.metric.generates() {
            generated::predictions(self, context, &[None], done)?.remove(0)
        } else if self.params.edited == EditedTokens::All {
            let scores = log_likelihoods(context, &self.questions(), context.n_ubatch(), done)?;
            self.judge(scores)
        } else {
            let edits = context.edits();
            self.likelihoods(context, &[edits], done)?.remove(0)
        };
        Ok(Report::new(self.params.metric, predictions, start))
    }

    /// Scores the model under each of `sets`, all in the same batches of `context`, which
    /// [`Self::context_params_for`] describes. Each report has the seconds of all together.
    ///
    /// # Errors
    /// As [`Self::run`], and those of [`Context::load_edits`].
    pub fn run_each(
        &self,
        context: &mut Context,
        sets: &[EditSet],
        done: impl FnMut(usize),
    ) -> Result<Vec<Report>, Error> {
        let start = Instant::now();
        let predictions: Vec<Vec<Prediction>> = if self.params.metric.generates() {
            let sets: Vec<_> = sets.iter().cloned().map(Arc::new).map(Some).collect();
            generated::predictions(self, context, &sets, done)?
        } else {
            self.likelihoods(context, sets, done)?
        };
        let report = |predictions| Report::new(self.params.metric, predictions, start);
        Ok(predictions.into_iter().map(report).collect())
    }

    /// What rows' log-likelihoods say under each of `sets`.
    fn likelihoods(
        &self,
        context: &mut Context,
        sets: &[EditSet],
        done: impl FnMut(usize),
    ) -> Result<Vec<Vec<Prediction>>, Error> {
        let at_once = context.n_ubatch();
        let edited = self.params.edited;
        let questions = self.questions();
        let scores = log_likelihoods_each(context, &questions, sets, edited, at_once, done)?;
        Ok(scores.into_iter().map(|s| self.judge(s)).collect())
    }

    fn questions(&self) -> Vec<Question<'_>> {
        self.items.iter().map(|item| self.question(item)).collect()
    }

    /// What the rows' log-likelihoods say.
    fn judge(&self, scores: Vec<Vec<f64>>) -> Vec<Prediction> {
        let rows = self.items.iter().zip(scores);
        rows.map(|(item, scores)| match self.params.metric {
            Metric::Choice => self.likeliest(item, &scores),
            _ => Prediction::perplexity(item, -scores[0], item.response[0].len()),
        })
        .collect()
    }

    /// The choice that scores best, the first of equals.
    fn likeliest(&self, item: &Item, scores: &[f64]) -> Prediction {
        let choices = &item.choices;
        let score = |i: &usize| match self.params.per_token {
            true => scores[*i] / choices.tokens[*i].len().max(1) as f64,
            false => scores[*i],
        };
        let best = (0..scores.len())
            .rev()
            .max_by(|a, b| score(a).total_cmp(&score(b)));
        Prediction::accuracy(item, best.map_or("", |i| choices.texts[i].trim()))
    }
}
