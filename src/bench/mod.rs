//! What edits cost: the same work without and with them, in alternating pairs, and what other
//! ways to change a model cost ([`Route`]).
//!
//! Times of one run say little on a machine that does other things too. Each pair does the
//! same work in two contexts of one model right after another, in turning order, and only the
//! ratio within a pair counts; the median over the pairs is reported with its quartiles.

mod callback;
mod edit;
mod lora;
mod sets;

use std::time::Instant;

use jola_edit::EditSet;
use serde::Serialize;

pub use edit::{every_head, load_times, LoadTimes};
pub use lora::{random_lora, random_loras};
pub use sets::variants;

use crate::context::{Batch, Context, ContextParams};
use crate::lora::Adapters;
use crate::model::{Model, Token};
use crate::stats::quantile;
use crate::Error;
use callback::CallbackEdits;
use sets::Turns;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct BenchParams {
    /// Tokens of a prompt.
    pub n_prompt: usize,
    /// Tokens decoded one by one behind it.
    pub n_gen: usize,
    /// Sequences at once, each with such a prompt.
    pub parallel: usize,
    /// Pairs, after one that is not counted.
    pub pairs: usize,
}

/// A way to run the model.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    /// As it is.
    Unedited,
    /// With edits by the built-in hook, and LoRA adapters if there are any.
    Adapters(&'a Adapters),
    /// With edits by llama.cpp's eval callback, as programs without the hook do it.
    EvalCallback(&'a EditSet),
    /// With all of these edits loaded, sequences having them in turn, in one batch.
    Sets(&'a [EditSet]),
    /// With sequences having these LoRA adapters in turn: llama.cpp can only decode those of
    /// one after those of another, as llama-server does.
    Loras(&'a [Adapters]),
}

/// The matrices that a LoRA changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraTargets {
    /// W_O: what an edit changes.
    Output,
    /// All of attention: W_Q, W_K, W_V and W_O.
    Attention,
}

/// Speeds and their ratio.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// Median speed of the unedited model, tokens per second of all sequences.
    pub unedited_tokens_per_s: f64,
    /// Median speed of the route.
    pub tokens_per_s: f64,
    /// Median over the pairs of the route's time / the unedited model's.
    pub time_ratio: f64,
    /// First and third quartile of that ratio.
    pub quartiles: [f64; 2],
}

/// What a route costs.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Decoding the prompts.
    pub prefill: Ratio,
    /// Decoding token by token.
    pub decode: Ratio,
}

/// A context that takes a [`Route`].
#[derive(Debug)]
pub struct Routed {
    /// Freed before what it calls, and never handed out without it.
    context: Context,
    _callback: Option<Box<CallbackEdits>>,
    /// What sequences have in turn.
    turns: Turns,
}

impl Routed {
    /// Creates the context.
    ///
    /// # Errors
    /// Those of [`Context::new`], [`Context::set_adapters`] and [`Context::load_edits`].
    pub fn new(model: &Model, params: &ContextParams, route: Route) -> Result<Self, Error> {
        let mut callback = None;
        let mut turns = Turns::None;
        let context = match route {
            Route::EvalCallback(edits) => {
                let edits = callback.insert(Box::new(CallbackEdits::new(edits)));
                edits.context(model, params)?
            }
            _ => Context::new(model, params)?,
        };
        let mut routed = Self {
            context,
            _callback: callback,
            turns: Turns::None,
        };
        match route {
            Route::Unedited | Route::EvalCallback(_) => (),
            Route::Adapters(adapters) => routed.context.set_adapters(adapters)?,
            Route::Sets(sets) => turns = Turns::sets(&mut routed.context, sets)?,
            Route::Loras(loras) => turns = Turns::Loras(loras.to_vec()),
        }
        routed.turns = turns;
        Ok(routed)
    }

    /// The context, to decode with.
    pub fn context(&mut self) -> &mut Context {
        &mut self.context
    }
}

/// Measures a route against the unedited model. `done(k)` is called with the number of pairs
/// finished.
///
/// # Errors
/// Those of [`Routed::new`] and [`Context::decode`].
pub fn paired(
    model: &Model,
    context: &ContextParams,
    route: Route,
    params: &BenchParams,
    mut done: impl FnMut(usize),
) -> Result<Cost, Error> {
    let context = ContextParams {
        n_ctx: (params.n_prompt + params.n_gen) as u32,
        n_seq_max: params.parallel as u32,
        ..context.clone()
    };
    let mut contexts = [
        Routed::new(model, &context, Route::Unedited)?,
        Routed::new(model, &context, route)?,
    ];
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for pair in 0..=params.pairs {
        let mut seconds = [[0.0; 2]; 2];
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            seconds[which] = time(&mut contexts[which], params, pair)?;
        }
        if pair > 0 {
            prefill.push([seconds[0][0], seconds[1][0]]);
            decode.push([seconds[0][1], seconds[1][1]]);
            done(pair);
        }
    }
    Ok(Cost {
        prefill: ratio(&prefill, params.parallel * params.n_prompt),
        decode: ratio(&decode, params.parallel * params.n_gen),
    })
}

/// Seconds for the prompts and for the tokens behind them.
fn time(routed: &mut Routed, params: &BenchParams, round: usize) -> Result<[f64; 2], Error> {
    let BenchParams {
        n_prompt,
        n_gen,
        parallel,
        ..
    } = *params;
    let Routed { context, turns, .. } = routed;
    // Any tokens do: the time does not depend on them.
    let n_vocab = context.model().n_vocab();
    let token =
        |i: usize, sequence: usize| ((i * 7919 + sequence * 104_729 + 13) % n_vocab) as Token;
    context.clear();
    let groups = turns.begin(context, parallel, round)?;
    let start = Instant::now();
    for group in &groups {
        turns.apply(context, group)?;
        let mut batch = Batch::new();
        for &sequence in &group.sequences {
            for i in 0..n_prompt {
                batch.push(token(i, sequence), i, sequence, i + 1 == n_prompt);
                if batch.len() == context.n_batch() {
                    context.decode(&batch)?;
                    batch.clear();
                }
            }
        }
        if !batch.is_empty() {
            context.decode(&batch)?;
        }
    }
    context.synchronize();
    let prefill = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for i in n_prompt..n_prompt + n_gen {
        for group in &groups {
            turns.apply(context, group)?;
            let mut batch = Batch::new();
            for &sequence in &group.sequences {
                batch.push(token(i, sequence), i, sequence, true);
            }
            context.decode(&batch)?;
            context.synchronize();
        }
    }
    Ok([prefill, start.elapsed().as_secs_f64()])
}

fn ratio(pairs: &[[f64; 2]], tokens: usize) -> Ratio {
    let speed = |which: usize| {
        tokens as f64 / quantile(pairs.iter().map(|pair| pair[which]).collect(), 0.5)
    };
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|[unedited, route]| route / unedited)
        .collect();
    Ratio {
        unedited_tokens_per_s: speed(0),
        tokens_per_s: speed(1),
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
