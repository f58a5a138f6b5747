//! Loads a base model, attaches an edit and continues a prompt: all that a program needs to
//! serve an edited model by itself.
//!
//! cargo run --release --example embed -- BASE.gguf EDIT.gguf 'Message: where is my parcel?'

use std::env;
use std::error::Error;

use llama_jola::{CompletionParams, Context, ContextParams, Model, ModelParams, Sidecar};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [base, edit, prompt] = args.as_slice() else {
        return Err("usage: embed BASE.gguf EDIT.gguf PROMPT".into());
    };

    let model = Model::load(base, &ModelParams::default())?;
    let sidecar = Sidecar::read(edit)?;
    // Checks that the edit was made for this model. Several edits may be composed, each with
    // a strength of its own; 1 is as trained.
    let edits = model.compose(&[(&sidecar, 1.0)])?;

    let mut context = Context::new(&model, &ContextParams::default())?;
    context.set_edits(&edits)?;

    // Greedy, until the model ends its answer.
    let params = CompletionParams {
        n_predict: 32,
        ..CompletionParams::default()
    };
    println!("{}", context.complete(prompt.as_str(), &params)?);
    Ok(())
}
