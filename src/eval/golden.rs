//! What sacrebleu and rouge-score say: `tests/golden/text_metrics.jsonl`.

use serde::Deserialize;

/// Outputs with their references and scores.
#[derive(Deserialize)]
pub struct Corpus {
    pub name: String,
    /// sacrebleu's corpus score.
    pub bleu: f64,
    pub rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
pub struct Row {
    pub output: String,
    pub references: Vec<String>,
    /// sacrebleu's statistics, in the order of `bleu::counts`.
    pub bleu_counts: Vec<f64>,
    /// rouge-score's F-measure, of the best reference.
    pub rouge_l: f64,
}

pub fn corpora() -> Vec<Corpus> {
    let lines = include_str!("../../tests/golden/text_metrics.jsonl").lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}
