/*!
What edits cost: the same work without and with them, in alternating pairs.

Times of one run say little on a machine that does other things too. Each pair does the
same work in two contexts of one model right after another, in turning order, and only the
ratio within a pair counts; the median over the pairs is reported with its quartiles.
*/

use std::time::Instant;

use serde::Serialize;

use crate::context::{Batch, Context, ContextParams};
use crate::lora::Adapters;
use crate::model::{Model, Token};
use crate::stats::quantile;
use crate::Error;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct BenchParams {
    /// Tokens of a prompt.
    pub n_prompt: usize,
    /// Tokens decoded one by one behind it.
    pub n_gen: usize,
    /// Pairs, after one that is not counted.
    pub pairs: usize,
}

/// Speeds and their ratio.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// Median speed without edits, tokens per second.
    pub unedited_tokens_per_s: f64,
    /// Median speed with edits, tokens per second.
    pub edited_tokens_per_s: f64,
    /// Median over the pairs of time with edits / time without.
    pub time_ratio: f64,
    /// First and third quartile of that ratio.
    pub quartiles: [f64; 2],
}

/// What edits cost.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Layers with edits.
    pub edited_layers: usize,
    /// LoRA adapters.
    pub loras: usize,
    /// Pairs measured.
    pub pairs: usize,
    /// Decoding a prompt in one go.
    pub prefill: Ratio,
    /// Decoding token by token.
    pub decode: Ratio,
}

/// Measures `adapters` against the plain model. `done(k)` is called with the number of pairs finished.
///
/// # Errors
/// Those of [`Context::new`], [`Context::set_adapters`] and [`Context::decode`].
pub fn paired(
    model: &Model,
    context: &ContextParams,
    adapters: &Adapters,
    params: &BenchParams,
    mut done: impl FnMut(usize),
) -> Result<BenchReport, Error> {
    let mut contexts = [Context::new(model, context)?, Context::new(model, context)?];
    contexts[1].set_adapters(adapters)?;
    // Any tokens do: the time does not depend on them.
    let n_vocab = model.n_vocab();
    let token = |i: usize| ((i * 7919 + 13) % n_vocab) as Token;
    let tokens: Vec<Token> = (0..params.n_prompt + params.n_gen).map(token).collect();
    let mut prefill = Vec::new();
    let mut decode = Vec::new();
    for pair in 0..=params.pairs {
        let mut seconds = [[0.0; 2]; 2];
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            seconds[which] = time(&mut contexts[which], &tokens, params.n_prompt)?;
        }
        if pair > 0 {
            prefill.push([seconds[0][0], seconds[1][0]]);
            decode.push([seconds[0][1], seconds[1][1]]);
            done(pair);
        }
    }
    Ok(BenchReport {
        edited_layers: adapters.edits.layers.len(),
        loras: adapters.loras.len(),
        pairs: params.pairs,
        prefill: ratio(&prefill, params.n_prompt),
        decode: ratio(&decode, params.n_gen),
    })
}

/// Seconds for the prompt and for the tokens behind it.
fn time(context: &mut Context, tokens: &[Token], n_prompt: usize) -> Result<[f64; 2], Error> {
    context.clear();
    let start = Instant::now();
    for (chunk, base) in tokens[..n_prompt].chunks(context.n_batch()).zip(0..) {
        let mut batch = Batch::new();
        for (i, &token) in chunk.iter().enumerate() {
            let position = base * context.n_batch() + i;
            batch.push(token, position, 0, position + 1 == n_prompt);
        }
        context.decode(&batch)?;
    }
    context.synchronize();
    let prefill = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for (position, &token) in tokens.iter().enumerate().skip(n_prompt) {
        let mut batch = Batch::new();
        batch.push(token, position, 0, true);
        context.decode(&batch)?;
        context.synchronize();
    }
    Ok([prefill, start.elapsed().as_secs_f64()])
}

fn ratio(pairs: &[[f64; 2]], tokens: usize) -> Ratio {
    let speed = |which: usize| {
        tokens as f64 / quantile(pairs.iter().map(|pair| pair[which]).collect(), 0.5)
    };
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|[unedited, edited]| edited / unedited)
        .collect();
    Ratio {
        unedited_tokens_per_s: speed(0),
        edited_tokens_per_s: speed(1),
        time_ratio: quantile(ratios.clone(), 0.5),
        quartiles: [quantile(ratios.clone(), 0.25), quantile(ratios, 0.75)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_taken_within_pairs() {
        // The machine got twice as slow between the pairs; the edit costs 10 % in each.
        let ratio = ratio(&[[1.0, 1.1], [2.0, 2.2], [1.0, 1.1]], 100);
        assert!((ratio.time_ratio - 1.1).abs() < 1e-12);
        assert_eq!(ratio.unedited_tokens_per_s, 100.0);
    }
}
