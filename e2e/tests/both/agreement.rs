//! How alike two engines predict where rounding keeps them from being equal.

use testkit::logits::{argmax, Logits};

/// How well `found` predicts like `expected`, over all positions.
#[derive(Debug)]
pub struct Agreement {
    /// Share of positions with the same most likely token.
    pub same: f64,
    /// The same among positions where the best token of `expected` leads by `clear_lead`.
    pub same_where_clear: f64,
    /// Share of positions with that lead.
    pub clear: f64,
    /// Mean over positions of KL(expected ‖ found), in nats.
    pub mean_kl: f64,
}

/// Compares two engines' predictions. `clear_lead` is in logits.
pub fn agreement(found: &Logits, expected: &Logits, clear_lead: f32) -> Agreement {
    assert_eq!(found.values.len(), expected.values.len());
    let n = expected.rows().len() as f64;
    let (mut same, mut clear, mut same_clear, mut kl) = (0.0, 0.0, 0.0, 0.0);
    for (found, expected) in found.rows().zip(expected.rows()) {
        let best = argmax(expected);
        let agrees = f64::from(argmax(found) == best);
        let others = expected.iter().enumerate().filter(|(i, _)| *i != best);
        let second = others.map(|(_, v)| *v).fold(f32::NEG_INFINITY, f32::max);
        same += agrees;
        if expected[best] - second >= clear_lead {
            clear += 1.0;
            same_clear += agrees;
        }
        kl += divergence(expected, found);
    }
    assert!(clear > 0.0, "no position has a clear best token");
    Agreement {
        same: same / n,
        same_where_clear: same_clear / clear,
        clear: clear / n,
        mean_kl: kl / n,
    }
}

/// KL(p ‖ q) of two rows of logits, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (
        llama_jola::eval::log_softmax(p),
        llama_jola::eval::log_softmax(q),
    );
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[test]
fn divergence_is_that_of_the_textbook() {
    // KL of (3/4, 1/4) from (1/2, 1/2): ln 2 − H = 3/4·ln(3/2) + 1/4·ln(1/2)
    let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
    let found = divergence(&[3f32.ln(), 0.0], &[7.0, 7.0]);
    assert!((found - expected).abs() < 1e-6, "{found}");
}
