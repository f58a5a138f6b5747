//! What LoRA trains (Hu et al. 2021): low-rank changes of frozen matrices.
//!
//! Parameters of all layers are stacked, two tensors for each target. L layers, r rank; a
//! target is a matrix [out, in] of every layer, by its name in the GGUF file.

use tch::Tensor;

use super::lora_config::LoraConfig;
use crate::model::{adaptable_matrices, JoinedMatrix, LayerChange, LowRank, Model};
use crate::rng::{Purpose, Rng};
use crate::Error;

/// The parameters of one target in all layers.
#[derive(Debug)]
pub struct Target {
    /// Its name without layer and `.weight`.
    pub name: String,
    matrix: JoinedMatrix,
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
        let first = model
            .layers
            .first()
            .map(adaptable_matrices)
            .unwrap_or_default();
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
    pub fn layer_changes(&self) -> Vec<LayerChange> {
        let n_layer = self.targets.first().map_or(0, |target| target.a.size()[0]);
        let mut changes = LayerChange::none(n_layer as usize);
        for target in &self.targets {
            let layers = target.a.unbind(0).into_iter().zip(target.b.unbind(0));
            for (layer, (a, b)) in changes.iter_mut().zip(layers) {
                let change = LowRank {
                    start: target.start,
                    a,
                    b,
                    factor: self.config.alpha / self.config.rank as f64,
                };
                layer.matrices.push(target.matrix, change);
            }
        }
        changes
    }

    /// How many numbers are trained.
    pub fn n_parameters(&self) -> usize {
        let of = |target: &Target| target.a.numel() + target.b.numel();
        self.targets.iter().map(of).sum()
    }
}
