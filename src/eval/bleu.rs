//! Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it (Post 2018).
//!
//! Signature: `nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp`. Own code because the bootstrap
//! needs the counts of every row; `tests/golden/text_metrics.py` checks it against sacrebleu.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

/// Words of the longest n-grams that are counted.
const ORDER: usize = 4;
/// Counts of a row: matched n-grams, n-grams, tokens of the output, tokens of the reference.
pub const COUNTS: usize = 2 * ORDER + 2;

/// What a row adds to the corpus: for n = 1 to 4 the n-grams of `output` that a reference
/// has, then all its n-grams, then the lengths of the output and of the closest reference.
pub fn counts(output: &str, references: &[String]) -> [f64; COUNTS] {
    let output = tokenize(output);
    let references: Vec<Vec<String>> = references.iter().map(|text| tokenize(text)).collect();
    let mut counts = [0.0; COUNTS];
    for n in 1..=ORDER {
        let mut allowed: HashMap<&[String], usize> = HashMap::new();
        for reference in &references {
            for (gram, count) in ngrams(reference, n) {
                let most = allowed.entry(gram).or_default();
                *most = count.max(*most);
            }
        }
        for (gram, count) in ngrams(&output, n) {
            let matched = count.min(allowed.get(gram).copied().unwrap_or(0));
            counts[n - 1] += matched as f64;
            counts[ORDER + n - 1] += count as f64;
        }
    }
    counts[2 * ORDER] = output.len() as f64;
    let closest = references
        .iter()
        .map(Vec::len)
        .min_by_key(|len| (len.abs_diff(output.len()), *len));
    counts[2 * ORDER + 1] = closest.unwrap_or(0) as f64;
    counts
}

/// BLEU of a corpus, 0 to 100, from the sums of its rows' [`counts`]. An order without a
/// match counts as half a match, the next one as a quarter, and so on.
pub fn score(sums: &[f64; COUNTS]) -> f64 {
    let (matched, rest) = sums.split_at(ORDER);
    let (all, lengths) = rest.split_at(ORDER);
    // No match at all, or all outputs shorter than four tokens.
    if matched.iter().all(|m| *m == 0.0) || all.contains(&0.0) {
        return 0.0;
    }
    let mut smooth = 1.0;
    let mut log_precision = 0.0;
    for (matched, all) in matched.iter().zip(all) {
        let matched = if *matched == 0.0 {
            smooth /= 2.0;
            smooth
        } else {
            *matched
        };
        log_precision += (matched / all).ln() / ORDER as f64;
    }
    let brevity = (1.0 - lengths[1] / lengths[0]).min(0.0);
    100.0 * (brevity + log_precision).exp()
}

fn ngrams(tokens: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// The tokenizer `13a` of mteval-v13a.
fn tokenize(text: &str) -> Vec<String> {
    static SPLITS: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let regex = |pattern| Regex::new(pattern).expect("a valid pattern");
        [
            // Every ASCII mark but ' , - . stands alone.
            (regex(r"([{-~\[-` -&(-+:-@/])"), " $1 "),
            // So do full stops and commas, unless between digits,
            (regex(r"([^0-9])([.,])"), "$1 $2 "),
            (regex(r"([.,])([^0-9])"), " $1 $2"),
            // and a dash behind a digit.
            (regex(r"([0-9])(-)"), "$1 $2 "),
        ]
    });
    let mut text = text
        .trim_end()
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    text = format!(" {text} ");
    for (pattern, replacement) in SPLITS.iter() {
        text = pattern.replace_all(&text, *replacement).into_owned();
    }
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::golden;

    /// sacrebleu works in 64-bit floats as well; only the order of operations differs.
    const TOLERANCE: f64 = 1e-9;

    #[test]
    fn agrees_with_sacrebleu() {
        for corpus in golden::corpora() {
            let mut sums = [0.0; COUNTS];
            for row in &corpus.rows {
                let found = counts(&row.output, &row.references);
                assert_eq!(found.as_slice(), row.bleu_counts, "{row:?}");
                sums.iter_mut().zip(found).for_each(|(sum, c)| *sum += c);
            }
            let found = score(&sums);
            assert!(
                (found - corpus.bleu).abs() <= TOLERANCE * corpus.bleu,
                "{}: {found}, sacrebleu {}",
                corpus.name,
                corpus.bleu
            );
        }
    }
}
