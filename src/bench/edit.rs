//! The largest edit a model can have, and how long it takes to load one.

use std::path::Path;
use std::time::Instant;

use jola_edit::sidecar::BaseShape;
use jola_edit::{HeadVectors, LayerEdit, Sidecar};
use serde::Serialize;

use crate::context::{Context, ContextParams};
use crate::model::Model;
use crate::stats::quantile;
use crate::Error;

/// How often loading is timed.
const LOADS: usize = 21;

/// Small random scales and offsets of every head in every layer.
pub fn every_head(base: &BaseShape) -> Sidecar {
    let mut random = fastrand::Rng::with_seed(1);
    let mut layer = |heads: u32| {
        let len = (heads * base.head_dim) as usize;
        let mut vectors = || HeadVectors {
            heads: (0..heads).collect(),
            values: (0..len).map(|_| (random.f32() - 0.5) * 0.02).collect(),
        };
        LayerEdit {
            mul: Some(vectors()),
            add: Some(vectors()),
        }
    };
    // Layers without attention have no heads.
    let with_heads = (0..).zip(&base.head_count).filter(|(_, heads)| **heads > 0);
    base.sidecar(
        "random",
        with_heads.map(|(l, heads)| (l, layer(*heads))).collect(),
    )
}

/// How long it takes to load sidecars, medians in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct LoadTimes {
    /// Reading, checking and composing the files.
    pub read_ms: f64,
    /// Bringing the edits into a context: upload, and the graph rebuilt.
    pub attach_ms: f64,
}

/// Times loading of `sidecars` into a context.
///
/// # Errors
/// Those of [`Context::new`], [`Model::compose`] and [`Context::set_edits`];
/// [`Error::Sidecar`] for a file that cannot be read.
pub fn load_times(
    model: &Model,
    context: &ContextParams,
    sidecars: &[(&Path, f32)],
) -> Result<LoadTimes, Error> {
    let mut context = Context::new(model, context)?;
    let (mut read, mut attach) = (Vec::new(), Vec::new());
    for _ in 0..LOADS {
        let start = Instant::now();
        let loaded = sidecars
            .iter()
            .map(|(path, strength)| Ok((Sidecar::read(path)?, *strength)));
        let loaded: Vec<(Sidecar, f32)> = loaded.collect::<Result<_, Error>>()?;
        let pairs: Vec<(&Sidecar, f32)> =
            loaded.iter().map(|(s, strength)| (s, *strength)).collect();
        let edits = model.compose(&pairs)?;
        read.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        context.set_edits(&edits)?;
        attach.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(LoadTimes {
        read_ms: quantile(read, 0.5),
        attach_ms: quantile(attach, 0.5),
    })
}
