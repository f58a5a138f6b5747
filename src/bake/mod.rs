//! Edits as weights: a plain GGUF that any llama.cpp runs as if the edit were attached.
//!
//! The output projection is linear, so an edit of its input `z' = mul ⊙ z + add` is an edit of
//! its weights: `W·z' + b = (W·diag(mul))·z + (b + W·add)`. [`bake`] writes a copy of the model in
//! which only the edited layers' `blk.N.attn_output.weight` and `.bias` differ, and compares its
//! logits with those of the live edit before the file gets its name. `docs/bake.md` tells users
//! about it.

pub mod architectures;
mod compare;
mod error;
mod exact;
mod plan;
mod projection;

use jola_edit::gguf::{Array, GgufError, GgufErrorKind, Metadata, Splits, Value};
use jola_edit::{EditSet, Output};

pub use compare::Comparison;
pub use error::BakeError;
use plan::Candidate;
pub use plan::{Changed, OutType, Plan};

use crate::{ContextParams, Model, ModelParams};

/// Largest mean Kullback-Leibler divergence from the live edit that `auto` accepts, in nats.
pub const MAX_KL: f64 = 1e-3;

/// One edit that went into a file, for its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingredient {
    /// `general.name` of the sidecar.
    pub name: String,
    /// SHA-256 of the sidecar's file.
    pub sha256: String,
    /// How strongly it was applied; 1: as trained.
    pub strength: f32,
}

/// How to bake.
#[derive(Clone, Debug)]
pub struct BakeParams {
    /// Type of the changed weights.
    pub outtype: OutType,
    /// Largest mean divergence from the live edit, in nats, that [`OutType::Auto`] accepts
    /// from the rounding of the changed weights.
    pub max_kl: f64,
    /// How to load the results that are compared with the base.
    pub model: ModelParams,
    /// How to run them.
    pub context: ContextParams,
}

impl Default for BakeParams {
    fn default() -> Self {
        Self {
            outtype: OutType::Auto,
            max_kl: MAX_KL,
            model: ModelParams::default(),
            context: ContextParams::default(),
        }
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The type that was chosen or asked for.
    pub outtype: OutType,
    /// The changed tensors.
    pub changed: Vec<Changed>,
    /// How far the rounding of the changed weights alone takes the logits from the live
    /// edit's, measured in floats; only for [`OutType::Auto`].
    pub weights_only: Option<Comparison>,
    /// How far the file's logits are from the live edit's as llama.cpp computes both: in a
    /// quantised model most of it is the noise of its kernels.
    pub as_run: Comparison,
    /// Smaller types whose rounding alone was too far away.
    pub rejected: Vec<(OutType, Comparison)>,
    /// Files of the base; they have become one.
    pub base_files: usize,
}

/// Writes `base` with `edits` as weights to `out`, which must know the base as an input.
///
/// Nothing appears at `out` unless llama.cpp has loaded and run the result and, for
/// [`OutType::Auto`], its weights are as close to the live edit as asked for. `ingredients` go
/// into the metadata.
///
/// # Errors
/// Any [`BakeError`].
pub fn bake(
    base: &Model,
    edits: &EditSet,
    ingredients: &[Ingredient],
    out: &Output,
    params: &BakeParams,
) -> Result<Report, BakeError> {
    let splits = Splits::open(base.path())?;
    let plan = Plan::new(&splits, base.shape(), edits)?;
    let metadata = baked_metadata(splits.metadata(), ingredients)
        .map_err(|kind| splits.first().error(kind))?;
    let context = ContextParams {
        n_ctx: compare::N_CTX,
        n_seq_max: 1,
        ..params.context.clone()
    };
    let mut rejected = Vec::new();
    let candidate = match params.outtype {
        OutType::Auto => choose(&plan, edits, out, params, &context, &mut rejected)?,
        outtype => (plan.fixed(outtype)?, None),
    };
    let (candidate, weights_only) = candidate;

    let live = compare::Sample::live(base, edits, &context)?;
    let at_out = |kind| GgufError::new(out.path(), kind);
    let mut file = out.begin()?;
    let writer = plan.writer(&candidate, metadata)?;
    writer.write_to(&mut file).map_err(at_out)?;
    let preview = Model::load(file.preview()?, &params.model)?;
    let as_run = live.compare(&preview, &context)?;
    drop(preview);
    if !as_run.is_within(f64::MAX) {
        return Err(BakeError::NotFinite);
    }
    file.commit()?;
    Ok(Report {
        outtype: candidate.outtype,
        changed: plan.changed(&candidate),
        weights_only,
        as_run,
        rejected,
        base_files: splits.files().len(),
    })
}

/// The first candidate that is close to the live edit, and how close; those before it go into
/// `rejected`.
fn choose(
    plan: &Plan<'_>,
    edits: &EditSet,
    out: &Output,
    params: &BakeParams,
    context: &ContextParams,
    rejected: &mut Vec<(OutType, Comparison)>,
) -> Result<(Candidate, Option<Comparison>), BakeError> {
    let exact = exact::Exact::new(plan, edits, out, &params.model, context)?;
    for candidate in plan.candidates() {
        let comparison = exact.compare(&candidate)?;
        if comparison.is_within(params.max_kl) {
            return Ok((candidate, Some(comparison)));
        }
        rejected.push((candidate.outtype, comparison));
    }
    Err(BakeError::TooFar {
        limit: params.max_kl,
        measured: rejected.iter().map(|(t, c)| (*t, c.mean_kl)).collect(),
    })
}

/// The base's metadata in their order, without what only made sense in one of several files,
/// and what was baked in. llama.cpp ignores keys that it does not know.
fn baked_metadata(base: &Metadata, baked: &[Ingredient]) -> Result<Metadata, GgufErrorKind> {
    const NAMES: &str = "jola.baked.names";
    const STRENGTHS: &str = "jola.baked.scales";
    const DIGESTS: &str = "jola.baked.sha256";
    let strings = |key: &str| base.get(key).and_then(Value::as_array)?.as_strings();
    let mut names = strings(NAMES).unwrap_or_default().to_vec();
    let mut digests = strings(DIGESTS).unwrap_or_default().to_vec();
    let mut strengths = match base.get(STRENGTHS) {
        Some(Value::Array(Array::F32(strengths))) => strengths.clone(),
        _ => Vec::new(),
    };
    let mut metadata = Metadata::new();
    for (key, value) in base.iter() {
        if !jola_edit::gguf::SPLIT_KEYS.contains(&key)
            && ![NAMES, STRENGTHS, DIGESTS].contains(&key)
        {
            metadata.insert(key, value.clone())?;
        }
    }
    names.extend(baked.iter().map(|edit| edit.name.clone()));
    digests.extend(baked.iter().map(|edit| edit.sha256.clone()));
    strengths.extend(baked.iter().map(|edit| edit.strength));
    if !names.is_empty() {
        metadata.insert(NAMES, Array::String(names))?;
        metadata.insert(STRENGTHS, Array::F32(strengths))?;
        metadata.insert(DIGESTS, Array::String(digests))?;
    }
    Ok(metadata)
}
