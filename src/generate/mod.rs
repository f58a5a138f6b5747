//! Generation for one or many prompts, as many sequences at once as the context has. This is
//! in tokens; [`Context::complete`] is the same for one text.
//!
//! [`generate`] continues prompts that are all there. A program that serves others has
//! [`serve`] in a thread of its own, which takes a [`Request`] at any time, each with edits,
//! sampling and an end of its own, or steps a [`Scheduler`] by itself.

mod cache;
mod request;
mod scheduler;
mod text;

use std::cell::RefCell;

pub use request::{Cancel, EditedTokens, End, Event, Request, Sink};
pub use scheduler::{serve, Scheduler, Submission};
pub use text::Utf8Stream;

use crate::context::Context;
use crate::model::Token;
use crate::sampler::SamplerParams;
use crate::Error;

/// What the model made of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// The tokens chosen, without the one that ends the generation.
    pub tokens: Vec<Token>,
    /// Whether the model itself ended it; not when it was cut off.
    pub ended: bool,
}

/// Continues every prompt by at most `n_predict` tokens, until the model ends it or the
/// context is full, and returns what was chosen for each.
/// `on_token(prompt, token)` sees each token as it is chosen; returning false ends that
/// sequence after it. The context is emptied first; what prompts begin with alike is decoded
/// once.
///
/// ```no_run
/// # use llama_jola::generate::generate;
/// # use llama_jola::sampler::SamplerParams;
/// # use llama_jola::{Context, Error};
/// # fn example(context: &mut Context) -> Result<(), Error> {
/// let model = context.model().clone();
/// let prompts = ["Message: where is my parcel?\nTeam:", "Message: I was billed twice.\nTeam:"]
///     .map(|text| model.tokenize_prompt(text));
/// let prompts = prompts.into_iter().collect::<Result<Vec<_>, _>>()?;
/// let answers = generate(context, &prompts, 8, &SamplerParams::greedy(), |_, _| true)?;
/// for answer in answers {
///     println!("{}", model.detokenize(&answer.tokens)?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::ContextFull`] for a prompt that leaves no room for a single token, before
/// anything is decoded, and the errors of [`Context::decode`].
pub fn generate(
    context: &mut Context,
    prompts: &[Vec<Token>],
    n_predict: usize,
    sampling: &SamplerParams,
    on_token: impl FnMut(usize, Token) -> bool,
) -> Result<Vec<Generated>, Error> {
    let requests: Vec<Request> = prompts
        .iter()
        .map(|prompt| Request {
            n_predict,
            sampling: sampling.clone(),
            ..Request::new(prompt.clone())
        })
        .collect();
    generate_each(context, requests, on_token)
}

/// As [`generate`], each prompt with what its request says.
///
/// # Errors
/// As [`generate`], and those of [`Context::load_edits`]; all requests end with the first.
pub fn generate_each(
    context: &mut Context,
    requests: Vec<Request>,
    on_token: impl FnMut(usize, Token) -> bool,
) -> Result<Vec<Generated>, Error> {
    let n_ctx = context.n_ctx();
    let longest = requests.iter().map(|r| r.prompt.len()).max().unwrap_or(0);
    if longest >= n_ctx {
        return Err(Error::ContextFull {
            needed: longest + 1,
            n_ctx,
        });
    }
    let results = RefCell::new(vec![Generated::default(); requests.len()]);
    let failure = RefCell::new(None);
    let on_token = RefCell::new(on_token);
    let mut scheduler = Scheduler::new(context);
    for (prompt, request) in requests.into_iter().enumerate() {
        if request.n_predict == 0 || request.prompt.is_empty() {
            continue;
        }
        let (results, failure, on_token) = (&results, &failure, &on_token);
        let sink = move |event| match event {
            Event::Token { token, .. } => {
                results.borrow_mut()[prompt].tokens.push(token);
                on_token.borrow_mut()(prompt, token)
            }
            Event::End { end, .. } => {
                results.borrow_mut()[prompt].ended = end == End::Model;
                true
            }
            Event::Failed(error) => {
                failure.borrow_mut().get_or_insert(error);
                false
            }
        };
        scheduler.submit(request, Box::new(sink));
    }
    while !scheduler.is_idle() {
        scheduler.step()?;
        if let Some(error) = failure.take() {
            return Err(error);
        }
    }
    drop(scheduler);
    Ok(results.into_inner())
}
