//! Two contexts of one model, each with an edit of its own, answer the same prompt; the text
//! is shown as it comes. The weights are in memory once, and an edit of one context does not
//! reach the other.
//!
//! cargo run --release --example stream -- BASE.gguf FIRST.gguf SECOND.gguf 'Once upon a time'

use std::env;
use std::error::Error;
use std::io::{stdout, Write as _};

use llama_jola::{CompletionParams, Context, ContextParams, Model, ModelParams, Sidecar};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [base, first, second, prompt] = args.as_slice() else {
        return Err("usage: stream BASE.gguf FIRST.gguf SECOND.gguf PROMPT".into());
    };

    let model = Model::load(base, &ModelParams::default())?;
    let params = CompletionParams {
        n_predict: 32,
        ..CompletionParams::default()
    };
    let mut contexts = Vec::new();
    for edit in [first, second] {
        let edits = model.compose(&[(&Sidecar::read(edit)?, 1.0)])?;
        let mut context = Context::new(&model, &ContextParams::default())?;
        context.set_edits(&edits)?;
        contexts.push((edit, context));
    }

    for (edit, context) in &mut contexts {
        print!("{edit}: {prompt}");
        context.stream(prompt.as_str(), &params, |piece| {
            print!("{piece}");
            // False ends the answer, here when nobody reads it any more.
            stdout().flush().is_ok()
        })?;
        println!();
    }
    Ok(())
}
