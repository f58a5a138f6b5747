//! Low-rank changes of frozen matrices (LoRA, Hu et al. 2021): W' = W + α/r·B·A.
//!
//! Parameters of all layers are stacked, two tensors for each target. L layers, r rank; a
//! target is a matrix [out, in] of every layer, by its name in the GGUF file. Matrices that
//! the model has joined get their parts of the change: B·A of a part is added to its rows.

use serde::Serialize;
use tch::Tensor;

use crate::base::tensor::Base;
use crate::method::edits::LayerEdit;
use crate::model::decoder::{Layer, Linear, Model};
use crate::rng::{Purpose, Rng};
use crate::Error;

/// Settings of LoRA.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoraConfig {
    /// r
    pub rank: usize,
    /// α
    pub alpha: f64,
    /// Names of the matrices without layer and `.weight`, as `attn_q`.
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// Numbers that are trained in a base of `n_layer` layers; targets that it lacks count
    /// nothing.
    pub fn n_trainable(&self, base: &dyn Base, n_layer: usize) -> usize {
        let layers = 0..n_layer;
        let names = layers.flat_map(|l| {
            self.targets
                .iter()
                .map(move |t| format!("blk.{l}.{t}.weight"))
        });
        let tensors = names.filter_map(|name| base.tensor(&name).map(|tensor| tensor.dims));
        let sizes = tensors.map(|dims| dims.iter().sum::<u64>() as usize * self.rank);
        sizes.sum()
    }
}

/// Where the joined matrices of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Query, key and value.
    QueryKeyValue,
    /// W_O.
    Output,
    /// Gate and up.
    GateUp,
    /// Down.
    Down,
}

/// The change of a joined matrix, or of a part of it.
#[derive(Debug)]
pub struct LowRank {
    /// First of its rows in the joined matrix.
    pub start: i64,
    /// A [r, in]
    pub a: Tensor,
    /// B [out, r]
    pub b: Tensor,
    /// α/r, times the user's scale
    pub scale: f64,
}

/// The changes in one layer.
#[derive(Debug, Default)]
pub struct LayerLora {
    changes: [Vec<LowRank>; 4],
}

impl LayerLora {
    /// The changes of a joined matrix.
    pub fn of(&self, matrix: Joined) -> &[LowRank] {
        &self.changes[matrix as usize]
    }

    /// The factors of all changes, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.changes.iter().flatten().flat_map(|c| [&c.a, &c.b])
    }

    /// The same changes with other factors.
    pub fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> LayerLora {
        let changed = |change: &LowRank| LowRank {
            a: f(&change.a),
            b: f(&change.b),
            ..*change
        };
        LayerLora {
            changes: [0, 1, 2, 3].map(|i| self.changes[i].iter().map(changed).collect()),
        }
    }

    /// Adds one.
    pub fn push(&mut self, matrix: Joined, change: LowRank) {
        self.changes[matrix as usize].push(change);
    }
}

impl LowRank {
    /// Adds the change's part of the output to `y` [T, joined out] for input `x` [T, in], in
    /// their number format.
    pub fn add_to(&self, y: &Tensor, x: &Tensor) {
        let kind = x.kind();
        let inner = x.linear::<&Tensor>(&self.a.to_kind(kind), None) * self.scale; // [T, r]
        let delta = inner.linear::<&Tensor>(&self.b.to_kind(kind), None); // [T, out]
        let _ = y.narrow(-1, self.start, delta.size()[1]).g_add_(&delta);
    }
}

/// The parameters of one target in all layers.
#[derive(Debug)]
pub struct Target {
    /// Its name without layer and `.weight`.
    pub name: String,
    matrix: Joined,
    start: i64,
    /// A [L, r, in], requires a gradient
    pub a: Tensor,
    /// B [L, out, r], requires a gradient
    pub b: Tensor,
}

/// All trainable parameters of LoRA.
#[derive(Debug)]
pub struct Lora {
    /// Rank, α and targets.
    pub config: LoraConfig,
    /// In the order of the model.
    pub targets: Vec<Target>,
}

impl Lora {
    /// Fresh parameters: A uniform in ±1/√in as PEFT's, B zero, so that nothing is changed yet.
    ///
    /// # Errors
    /// [`Error::LoraTarget`] when no matrix of the layers has a target's name.
    pub fn new(config: LoraConfig, model: &Model, seed: u64) -> Result<Lora, Error> {
        let options = (model.precision.math, model.device());
        let (n_layer, rank) = (model.layers.len() as i64, config.rank as i64);
        let first = model.layers.first().map(parts).unwrap_or_default();
        for target in &config.targets {
            if !first.iter().any(|part| part.name == *target) {
                let names: Vec<&str> = first.iter().map(|part| part.name).collect();
                return Err(Error::LoraTarget {
                    target: target.clone(),
                    targets: names.join(", "),
                });
            }
        }
        let chosen = first.into_iter().enumerate();
        let chosen = chosen.filter(|(_, part)| config.targets.iter().any(|t| t == part.name));
        let targets = chosen.map(|(index, part)| {
            let mut rng = Rng::new(seed, Purpose::Lora, index as u64);
            let bound = (part.columns as f64).sqrt().recip();
            let n = n_layer * rank * part.columns;
            let values: Vec<f64> = (0..n)
                .map(|_| (rng.uniform() * 2.0 - 1.0) * bound)
                .collect();
            let a = Tensor::from_slice(&values).view([n_layer, rank, part.columns]);
            let a = a.to_kind(options.0).to_device(options.1);
            Target {
                name: part.name.to_owned(),
                matrix: part.matrix,
                start: part.start,
                a: a.set_requires_grad(true),
                b: Tensor::zeros([n_layer, part.rows, rank], options).set_requires_grad(true),
            }
        });
        Ok(Lora {
            targets: targets.collect(),
            config,
        })
    }

    /// What the model applies, one entry per layer.
    pub fn layer_edits(&self) -> Vec<LayerEdit> {
        let n_layer = self.targets.first().map_or(0, |target| target.a.size()[0]);
        let mut edits = LayerEdit::none(n_layer as usize);
        for target in &self.targets {
            let layers = target.a.unbind(0).into_iter().zip(target.b.unbind(0));
            for (edit, (a, b)) in edits.iter_mut().zip(layers) {
                let change = LowRank {
                    start: target.start,
                    a,
                    b,
                    scale: self.config.alpha / self.config.rank as f64,
                };
                edit.lora.push(target.matrix, change);
            }
        }
        edits
    }

    /// Trained numbers.
    pub fn n_parameters(&self) -> usize {
        let of = |target: &Target| target.a.numel() + target.b.numel();
        self.targets.iter().map(of).sum()
    }
}

/// A matrix of a layer as the file names it, in the joined matrix that the model has.
#[derive(Debug)]
pub struct Part<'a> {
    /// Its name without layer and `.weight`.
    pub name: &'a str,
    /// The joined matrix.
    pub matrix: Joined,
    /// First of its rows there.
    pub start: i64,
    /// out
    pub rows: i64,
    /// in
    pub columns: i64,
}

/// The matrices of a layer that can be changed. Experts' are not among them.
pub fn parts(layer: &Layer) -> Vec<Part<'_>> {
    let mut joined: Vec<(Joined, &Linear)> = vec![
        (Joined::QueryKeyValue, &layer.attn_qkv),
        (Joined::Output, &layer.attn_output),
    ];
    if let Some((gate_up, down)) = layer.ffn.dense() {
        joined.extend([(Joined::GateUp, gate_up), (Joined::Down, down)]);
    }
    let mut parts = Vec::new();
    for (matrix, linear) in joined {
        let mut start = 0;
        for (name, rows) in &linear.parts {
            parts.push(Part {
                name,
                matrix,
                start,
                rows: *rows,
                columns: linear.weight.size()[1],
            });
            start += rows;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn equals_the_dense_merge() {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
        tch::manual_seed(1);
        let linear = Linear {
            weight: random(&[10, 6]),
            bias: Some(random(&[10])),
            parts: vec![("q".into(), 4), ("k".into(), 2), ("v".into(), 4)],
        };
        let change = |start, out| LowRank {
            start,
            a: random(&[3, 6]),
            b: random(&[out, 3]),
            scale: 0.7,
        };
        let changes = [change(0, 4), change(6, 4)];
        let merged = linear.weight.copy();
        for change in &changes {
            let mut rows = merged.narrow(0, change.start, 4);
            rows += change.b.matmul(&change.a) * change.scale;
        }
        let x = random(&[5, 6]);
        let expected = x.linear(&merged, linear.bias.as_ref());
        let found = linear.forward(&x, &changes);
        assert!(found.allclose(&expected, 1e-12, 1e-12, false));
        let plain = x.linear(&linear.weight, linear.bias.as_ref());
        assert!(linear.forward(&x, &[]).equal(&plain));
        assert!(!found.allclose(&plain, 1e-3, 1e-3, false));
    }
}
