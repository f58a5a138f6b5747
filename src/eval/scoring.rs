//! A task's way through the model: what is asked, and the score of what comes back.

use std::time::Instant;

use super::likelihood::{log_likelihoods, Question};
use super::task::{Item, Task};
use super::{generated, Metric, Prediction, Report};
use crate::context::Context;
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
            generated::predictions(self, context, done)?
        } else {
            self.likelihoods(context, done)?
        };
        Ok(Report::new(self.params.metric, predictions, start))
    }

    fn likelihoods(
        &self,
        context: &mut Context,
        done: impl FnMut(usize),
    ) -> Result<Vec<Prediction>, Error> {
        let questions: Vec<Question> = self.items.iter().map(|item| self.question(item)).collect();
        let at_once = context.n_ubatch();
        let scores = log_likelihoods(context, &questions, at_once, done)?;
        let rows = self.items.iter().zip(scores);
        Ok(rows
            .map(|(item, scores)| match self.params.metric {
                Metric::Choice => self.likeliest(item, &scores),
                _ => Prediction::perplexity(item, -scores[0], item.response[0].len()),
            })
            .collect())
    }

    /// The choice that scores best, the first of equals.
    fn likeliest(&self, item: &Item, scores: &[f64]) -> Prediction {
        let choices = self.choices_of(item);
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
