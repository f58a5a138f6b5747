//! `llama-jola inspect BASE.gguf`: what a base model is, and what can be done with it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use jola_edit::architectures::{find_trainable, trainable_names};
use jola_edit::gguf::{Metadata, Splits};
use jola_edit::sidecar::BaseShape;
use jola_edit::{DenseEdit, EditSet, Folded};
use llama_jola::bake::architectures;
use llama_jola::{Context, ContextParams, Model, ModelParams};
use serde::Serialize;

use super::output::{print, print_json};

/// Whether a file is a model: anything but an adapter.
pub fn is_model(metadata: &Metadata) -> bool {
    let kind = metadata.get("general.type").and_then(|kind| kind.as_str());
    metadata.get("adapter.type").is_none() && matches!(kind, None | Some("model"))
}

#[derive(Serialize)]
struct Description {
    name: String,
    architecture: String,
    files: usize,
    bytes: u64,
    layers_total: u32,
    /// Query heads by layer.
    head_count: Vec<u32>,
    head_dim: u32,
    parameters: u64,
    /// Values by ggml type.
    types: BTreeMap<&'static str, u64>,
    /// Edits already baked in.
    baked: Vec<String>,
    train: Answer,
    infer: Answer,
    bake_scales: Answer,
    bake_offsets: Answer,
}

/// Whether something is possible; `None`: not tried.
#[derive(Serialize)]
struct Answer {
    possible: Option<bool>,
    why: String,
}

impl Answer {
    fn new(possible: Option<bool>, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { possible, why }
    }
}

/// Runs the command; `load`: proves inference by loading the model.
///
/// # Errors
/// A file that cannot be read.
pub fn run(path: &Path, load: bool, json: bool) -> Result<()> {
    let description = describe(path, load)?;
    if json {
        print_json(&description)?;
    } else {
        print(|out| write(out, path, &description))?;
    }
    Ok(())
}

fn describe(path: &Path, load: bool) -> Result<Description> {
    let splits = Splits::open(path)?;
    let metadata = splits.metadata();
    let shape = BaseShape::from_gguf(splits.first())?;
    let mut types = BTreeMap::new();
    for tensor in splits.iter() {
        *types.entry(tensor.info.type_name()).or_default() += tensor.info.elements();
    }
    let text = |key: &str| {
        metadata
            .get(key)
            .and_then(|value| value.as_str())
            .unwrap_or_default()
    };
    let baked = metadata
        .get("jola.baked.names")
        .and_then(|value| value.as_array()?.as_strings());
    let [train, infer, bake_scales, bake_offsets] = uses(path, load, &splits, &shape);
    Ok(Description {
        name: text("general.name").to_owned(),
        architecture: shape.architecture.clone(),
        files: splits.files().len(),
        bytes: splits.bytes(),
        layers_total: shape.block_count,
        head_count: shape.head_count.clone(),
        head_dim: shape.head_dim,
        parameters: types.values().sum(),
        types,
        baked: baked.unwrap_or_default().to_vec(),
        train,
        infer,
        bake_scales,
        bake_offsets,
    })
}

/// Whether the model can be trained on and edited, and scales and offsets be baked into it.
fn uses(path: &Path, load: bool, splits: &Splits, shape: &BaseShape) -> [Answer; 4] {
    if let Err(folded) = Folded::refuse(|key| splits.metadata().get(key).is_some()) {
        return [(); 4].map(|()| Answer::new(Some(false), folded.to_string()));
    }
    let infer = match load {
        _ if shape.head_count.iter().all(|heads| *heads == 0) => {
            Answer::new(Some(false), "it has no attention heads")
        }
        true => infer(path, shape),
        false => expected(shape),
    };
    let (scales, offsets) = bake(splits, shape);
    [train(shape), infer, scales, offsets]
}

fn train(shape: &BaseShape) -> Answer {
    match find_trainable(&shape.architecture) {
        Some(entry) => Answer::new(Some(true), entry.models),
        None => Answer::new(Some(false), format!("trained are {}", trainable_names())),
    }
}

/// What is known of inference without loading the model.
fn expected(shape: &BaseShape) -> Answer {
    match architectures::find(&shape.architecture) {
        Some(_) => Answer::new(
            Some(true),
            "llama.cpp builds its attention where the hook sits; --load proves it for this file",
        ),
        None => Answer::new(None, "--load tries it by loading the model"),
    }
}

/// Attaches an edit without effect to every layer: the hook must meet each of them.
fn infer(path: &Path, shape: &BaseShape) -> Answer {
    let mut edits = EditSet::default();
    for (layer, &heads) in (0..).zip(&shape.head_count) {
        let ones = vec![1.0; heads as usize * shape.head_dim as usize];
        // Layers without heads have nothing to edit.
        if let Ok(edit) = DenseEdit::new(Some(ones), None) {
            edits.layers.insert(layer, edit);
        }
    }
    let attach = || {
        let model = Model::load(path, &ModelParams::default())?;
        let params = ContextParams {
            n_ctx: 64,
            ..ContextParams::default()
        };
        Context::new(&model, &params)?.set_edits(&edits)
    };
    match attach() {
        Ok(()) => {
            let why = format!(
                "the hook meets all {} layers with heads",
                edits.layers.len()
            );
            Answer::new(Some(true), why)
        }
        Err(error) => Answer::new(Some(false), error.to_string()),
    }
}

/// Scales and offsets.
fn bake(splits: &Splits, shape: &BaseShape) -> (Answer, Answer) {
    let both = |why: String| {
        (
            Answer::new(Some(false), why.clone()),
            Answer::new(Some(false), why),
        )
    };
    let Some(architecture) = architectures::find(&shape.architecture) else {
        return both(
            "what llama.cpp does before this architecture's output projection is not known here"
                .into(),
        );
    };
    let without: Vec<u32> = (0..shape.block_count)
        .zip(&shape.head_count)
        .filter(|(layer, heads)| {
            **heads > 0
                && splits
                    .tensor(&format!("blk.{layer}.attn_output.weight"))
                    .is_none()
        })
        .map(|(layer, _)| layer)
        .collect();
    if !without.is_empty() {
        return both(format!(
            "layers {without:?} have no tensor `attn_output.weight`"
        ));
    }
    let answer = |obstacle: Option<architectures::Obstacle>, how: &str| match obstacle {
        Some(obstacle) => Answer::new(Some(false), obstacle.to_string()),
        None => Answer::new(Some(true), how),
    };
    (
        answer(
            architecture.scale_obstacle(),
            "columns of attn_output.weight",
        ),
        answer(architecture.offset_obstacle(), "attn_output.bias"),
    )
}

fn write(out: &mut dyn Write, path: &Path, base: &Description) -> io::Result<()> {
    writeln!(
        out,
        "{}: {} ({} bytes)",
        path.display(),
        base.name,
        base.bytes
    )?;
    writeln!(out, "  architecture  {}", base.architecture)?;
    if base.files > 1 {
        writeln!(out, "  files         {}", base.files)?;
    }
    let (least, most) = (base.head_count.iter().min(), base.head_count.iter().max());
    let heads = match (least, most) {
        (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
        (Some(count), _) => count.to_string(),
        _ => "no".to_owned(),
    };
    writeln!(
        out,
        "  layers        {}, {heads} heads of width {}",
        base.layers_total, base.head_dim
    )?;
    let share = |count: &u64| 100.0 * *count as f64 / base.parameters.max(1) as f64;
    let types: Vec<String> = base
        .types
        .iter()
        .map(|(name, count)| format!("{name} {:.1} %", share(count)))
        .collect();
    writeln!(
        out,
        "  parameters    {}: {}",
        base.parameters,
        types.join(", ")
    )?;
    for name in &base.baked {
        writeln!(out, "  baked in      {name}")?;
    }
    let answers = [
        ("training", &base.train),
        ("inference", &base.infer),
        ("bake scales", &base.bake_scales),
        ("bake offsets", &base.bake_offsets),
    ];
    for (what, answer) in answers {
        let possible = match answer.possible {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not tried",
        };
        writeln!(out, "  {what:<12}  {possible}: {}", answer.why)?;
    }
    Ok(())
}
