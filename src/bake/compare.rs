//! How far a model's logits are from those of the live edit.

use jola_edit::EditSet;

use crate::eval::log_softmax;
use crate::model::{SpecialTokens, Token};
use crate::{Context, ContextParams, Error, Model};

/// Tokens that are compared at most.
pub const N_CTX: u32 = 256;

/// Prose, a list, code and other scripts, so that many parts of a model take part.
const TEXT: &str = "The ferry to the island leaves at nine, and the last one back is at six. \
    Anna asked whether the museum opens on Mondays; nobody at the harbour knew.\n\n\
    1. Add 17 and 25: 42.\n2. Name three rivers: the Danube, the Nile, the Amazon.\n\n\
    fn area(width: f32, height: f32) -> f32 {\n    width * height\n}\n\n\
    {\"id\": 7, \"tags\": [\"red\", \"blue\"], \"price\": 12.50}\n\n\
    Der Zug nach Basel hat zwölf Minuten Verspätung. \
    El mercado abre a las ocho de la mañana. 今天天气很好。 Завтра будет дождь.";

/// The difference between two models' predictions of the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// Mean over the positions of KL(live ‖ baked), in nats.
    pub mean_kl: f64,
    /// The largest of them.
    pub max_kl: f64,
    /// ‖baked − live‖ / ‖live‖ over all logits.
    pub distance: f64,
    /// Positions at which both predict the same token.
    pub same_top: usize,
    /// How many positions were compared.
    pub tokens: usize,
}

/// Tokens and their logits under the live edit.
#[derive(Debug)]
pub struct Sample {
    tokens: Vec<Token>,
    logits: Vec<f32>,
}

impl Sample {
    /// Runs the base with the edit attached.
    pub fn live(model: &Model, edits: &EditSet, params: &ContextParams) -> Result<Self, Error> {
        let mut context = Context::new(model, params)?;
        context.set_edits(edits)?;
        let tokens = sample_tokens(model);
        let logits = context.logits_of(&tokens)?;
        Ok(Self { tokens, logits })
    }

    /// Whether all logits are numbers.
    pub fn is_finite(&self) -> bool {
        self.logits.iter().all(|logit| logit.is_finite())
    }

    /// Runs another model, without edits, on the same tokens.
    pub fn compare(&self, model: &Model, params: &ContextParams) -> Result<Comparison, Error> {
        let found = Context::new(model, params)?.logits_of(&self.tokens)?;
        Ok(Comparison::of(&self.logits, &found, model.n_vocab()))
    }
}

impl Comparison {
    /// Whether the mean divergence is at most `limit`; not if it is not a number.
    pub fn is_within(&self, limit: f64) -> bool {
        self.mean_kl <= limit
    }

    /// Compares logits `[n_tokens, n_vocab]`.
    fn of(live: &[f32], baked: &[f32], n_vocab: usize) -> Self {
        let mut comparison = Self {
            mean_kl: 0.0,
            max_kl: 0.0,
            distance: 0.0,
            same_top: 0,
            tokens: 0,
        };
        let (mut difference, mut norm) = (0.0, 0.0);
        for (live, baked) in live.chunks(n_vocab).zip(baked.chunks(n_vocab)) {
            let (p, q) = (log_softmax(live), log_softmax(baked));
            let terms = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q));
            // Rounding can make it slightly negative; a NaN must stay one.
            let kl = match terms.sum::<f64>() {
                kl if kl < 0.0 => 0.0,
                kl => kl,
            };
            comparison.mean_kl += kl;
            comparison.max_kl = comparison.max_kl.max(kl);
            comparison.same_top += usize::from(top(&p) == top(&q));
            comparison.tokens += 1;
            for (live, baked) in live.iter().zip(baked) {
                difference += f64::from(live - baked).powi(2);
                norm += f64::from(*live).powi(2);
            }
        }
        comparison.mean_kl /= comparison.tokens.max(1) as f64;
        comparison.distance = (difference / norm).sqrt();
        comparison
    }
}

/// The same tokens for every file of one model.
fn sample_tokens(model: &Model) -> Vec<Token> {
    let special = SpecialTokens {
        add: true,
        parse: false,
    };
    let mut tokens = model.tokenize(TEXT, special).unwrap_or_default();
    if tokens.is_empty() {
        // A model without a tokenizer: ids all over its vocabulary.
        let n_vocab = model.n_vocab().max(1);
        let ids = (0..128usize).map(|i| (i * 7919 + 13) % n_vocab);
        tokens = ids.map(|id| id as Token).collect();
    }
    tokens.truncate(N_CTX as usize);
    tokens
}

fn top(log_probabilities: &[f64]) -> Option<usize> {
    let indexed = log_probabilities.iter().enumerate();
    let best = indexed.max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_have_no_distance() {
        let logits = [1.0, 2.0, 3.0, -4.0, 0.0, 2.0];
        let found = Comparison::of(&logits, &logits, 3);
        assert_eq!(
            (found.mean_kl, found.max_kl, found.distance),
            (0.0, 0.0, 0.0)
        );
        assert_eq!((found.same_top, found.tokens), (2, 2));
    }

    #[test]
    fn divergence_is_that_of_the_distributions() {
        let ln = |p: f64| p.ln() as f32;
        let live = [ln(0.5), ln(0.5)];
        let baked = [ln(0.75), ln(0.25)];
        let expected = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
        let found = Comparison::of(&live, &baked, 2);
        assert!((found.mean_kl - expected).abs() < 1e-7, "{found:?}");
        let broken = Comparison::of(&live, &[f32::NAN, 0.0], 2);
        assert!(!broken.is_within(1.0), "{broken:?}");
    }
}
