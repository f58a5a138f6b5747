//! ROUGE-L (Lin 2004) as Google's rouge-score computes it, without stemming.
//!
//! `tests/golden/text_metrics.py` checks it against that package.

/// F-measure of the longest common subsequence, 0 to 1, with the best of `references`.
pub fn l(output: &str, references: &[String]) -> f64 {
    let output = tokenize(output);
    references
        .iter()
        .map(|reference| f_measure(&output, &tokenize(reference)))
        .fold(0.0, f64::max)
}

fn f_measure(output: &[String], reference: &[String]) -> f64 {
    let common = longest_common_subsequence(output, reference) as f64;
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (
        common / output.len() as f64,
        common / reference.len() as f64,
    );
    2.0 * precision * recall / (precision + recall)
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    // best[j]: of what was seen of `a` with b[..j].
    let mut best = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = best[j + 1];
            best[j + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(best[j])
            };
            diagonal = above;
        }
    }
    best[b.len()]
}

/// Runs of ASCII letters and digits, in lower case; everything else separates.
fn tokenize(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::golden;

    #[test]
    fn agrees_with_rouge_score() {
        for row in golden::corpora().iter().flat_map(|corpus| &corpus.rows) {
            let found = l(&row.output, &row.references);
            assert!((found - row.rouge_l).abs() < 1e-12, "{found}, {row:?}");
        }
    }
}
