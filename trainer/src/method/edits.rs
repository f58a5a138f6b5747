//! The trainable part: for every head a scale and an offset of its output, each behind a gate.
//!
//! Parameters of all layers are stacked, so that the optimiser sees four tensors whatever
//! the size of the model. L layers, H heads, D head width.

use tch::{no_grad, Tensor};

use super::gated_vectors::{GateValues, GatedVectors};
use super::gates;
use super::half::Half;
use super::init::Init;
use super::methods::Method;
use crate::model::LayerChange;
use crate::readings;
use crate::rng::{Purpose, Rng};

/// The vectors and gates of all heads.
#[derive(Debug)]
pub struct Edits {
    /// How they are trained.
    pub method: Method,
    /// The halves that the method trains.
    pub halves: Vec<GatedVectors>,
    /// Gates that no longer change: their values, one entry per half.
    fixed: Option<Vec<GateValues>>,
    /// Per half the layers whose gates were not all closed when they were last fixed.
    open_layers: Vec<Vec<bool>>,
}

impl Edits {
    /// Fresh parameters for heads whose outputs in the base model have the root mean
    /// square `head_rms` [L, H]; in its number format and on its device.
    pub fn new(method: Method, head_dim: usize, head_rms: &Tensor, init: Init, seed: u64) -> Edits {
        let (kind, device) = (head_rms.kind(), head_rms.device());
        let (n_layer, n_head) = head_rms.size2().expect("layers by heads");
        let shape = [n_layer, n_head, head_dim as i64];
        let leaf = |values: &[f64], shape: &[i64]| {
            let tensor = Tensor::from_slice(values).view(shape).to_kind(kind);
            tensor.to_device(device).set_requires_grad(true)
        };
        let mut halves: Vec<GatedVectors> = Vec::new();
        for &half in method.halves() {
            let mut rng = Rng::new(seed, Purpose::Init, half as u64);
            let n = shape.iter().product::<i64>();
            let values: Vec<f64> = (0..n).map(|_| rng.normal() * init.vector_std).collect();
            let log_alpha = match halves.first() {
                Some(first) if method == Method::SharedGate => first.log_alpha.shallow_clone(),
                _ => {
                    let values = init.log_alphas(&method, half, [n_layer, n_head], seed);
                    leaf(&values, &shape[..2])
                }
            };
            halves.push(GatedVectors {
                half,
                vectors: leaf(&values, &shape),
                unit: match half {
                    Half::Offset if !init.plain_offsets => head_rms.copy(),
                    _ => head_rms.ones_like(),
                }
                .unsqueeze(-1),
                log_alpha,
            });
        }
        let mut edits = Edits {
            method,
            open_layers: vec![vec![true; n_layer as usize]; halves.len()],
            halves,
            fixed: None,
        };
        if !edits.method.gated() {
            edits.fix();
        }
        edits
    }

    /// Ends the choice of heads: from here on every gate has its deterministic value.
    pub fn fix(&mut self) {
        let fixed = self.fixed_gates();
        self.open_layers = fixed.iter().map(|gate| gate.layers.clone()).collect();
        self.fixed = Some(fixed);
    }

    /// Lets the choice of heads go on. Gates that are closed stay so.
    pub fn release(&mut self) {
        self.fixed = None;
    }

    /// What training applies. While heads are chosen, gates are random, with the `noise` of
    /// this seed and step, or have their deterministic value.
    pub fn training_changes(&self, noise: Option<(u64, usize)>) -> Vec<LayerChange> {
        match (&self.fixed, noise) {
            (Some(fixed), _) => self.layer_changes(fixed),
            (None, Some((seed, step))) => self.layer_changes(&self.sample_gates(seed, step)),
            (None, None) => self.layer_changes(&self.deterministic_gates()),
        }
    }

    /// What the model applies with the edit as it stands, one entry per layer.
    pub fn final_changes(&self) -> Vec<LayerChange> {
        match &self.fixed {
            Some(fixed) => self.layer_changes(fixed),
            None => self.layer_changes(&self.fixed_gates()),
        }
    }

    /// Random gates for the forward pass of `step`, one entry per half.
    pub fn sample_gates(&self, seed: u64, step: usize) -> Vec<GateValues> {
        let mut rng = Rng::new(seed, Purpose::Gates, step as u64);
        let sample = |log_alpha: &Tensor| {
            let noise: Vec<f64> = (0..log_alpha.numel()).map(|_| rng.uniform()).collect();
            let noise = Tensor::from_slice(&noise).view_as(log_alpha);
            let noise = noise
                .to_kind(log_alpha.kind())
                .to_device(log_alpha.device());
            GateValues::everywhere(gates::sample(log_alpha, &noise))
        };
        let mut values: Vec<GateValues> = self.log_alphas().into_iter().map(sample).collect();
        if self.method == Method::SharedGate {
            values.push(GateValues::everywhere(values[0].values.shallow_clone()));
        }
        values
    }

    /// The gates' deterministic values with a gradient, one entry per half.
    fn deterministic_gates(&self) -> Vec<GateValues> {
        let halves = self.halves.iter().zip(&self.open_layers);
        let values = halves.map(|(half, layers)| GateValues {
            values: gates::deterministic(&half.log_alpha),
            layers: layers.clone(),
        });
        values.collect()
    }

    /// The gates' deterministic values, without a gradient, one entry per half (reads from
    /// the device).
    pub fn fixed_gates(&self) -> Vec<GateValues> {
        let fix = |half: &GatedVectors| {
            let values = no_grad(|| gates::deterministic(&half.log_alpha));
            let open = values.gt(0.0).any_dim(1, false);
            let layers = readings::flags(&open);
            GateValues { values, layers }
        };
        self.halves.iter().map(fix).collect()
    }

    /// What the model applies for these gates (one entry per half), one entry per layer.
    pub fn layer_changes(&self, gates: &[GateValues]) -> Vec<LayerChange> {
        let n_layer = self.halves[0].vectors.size()[0] as usize;
        let mut changes = LayerChange::none(n_layer);
        for (half, gate) in self.halves.iter().zip(gates) {
            if !gate.layers.contains(&true) {
                continue;
            }
            let product = half.product(gate); // [L, H, D]
            let rows = match half.half {
                Half::Scale => product + 1.0,
                Half::Offset => product,
            };
            let rows = rows.flatten(1, 2).unbind(0); // L × [H·D]
            for ((change, row), &edited) in changes.iter_mut().zip(rows).zip(&gate.layers) {
                let slot = match half.half {
                    Half::Scale => &mut change.heads.factor,
                    Half::Offset => &mut change.heads.offset,
                };
                *slot = edited.then_some(row);
            }
        }
        changes
    }

    /// Each kind of gate: the half that it opens, the scale where it opens both, and
    /// `log_alpha` [L, H].
    pub fn kinds(&self) -> Vec<(Half, &Tensor)> {
        let shared = self.method == Method::SharedGate;
        let halves = &self.halves[..if shared { 1 } else { self.halves.len() }];
        let kinds = halves.iter().map(|half| (half.half, &half.log_alpha));
        kinds.collect()
    }

    /// `log_alpha` [L, H] of each kind of gate.
    pub fn log_alphas(&self) -> Vec<&Tensor> {
        let kinds = self.kinds();
        kinds.into_iter().map(|(_, log_alpha)| log_alpha).collect()
    }

    /// What the gates of each kind are worth: what the loss would rise by without the head's
    /// edit, to first order −Σ v·∂L/∂v over the vectors v that the gate lets through, [L, H]
    /// each. From the gradient that the loss has just left on the vectors.
    pub fn worth(&self) -> Vec<Tensor> {
        no_grad(|| {
            let worth = |half: &GatedVectors| {
                let products = -&half.vectors * half.vectors.grad();
                products.sum_dim_intlist([-1i64].as_slice(), false, None)
            };
            let halves = self.halves.iter().map(worth);
            match self.method {
                Method::SharedGate => vec![halves.sum()],
                _ => halves.collect(),
            }
        })
    }

    /// Each kind of gate: what it opens, and `log_alpha` [L, H].
    pub fn gates(&self) -> Vec<(&'static str, &Tensor)> {
        let name = |half: Half| match self.method {
            Method::SharedGate => "head",
            _ => half.name(),
        };
        let kinds = self.kinds().into_iter();
        kinds
            .map(|(half, log_alpha)| (name(half), log_alpha))
            .collect()
    }

    /// Numbers that are trained, gates among them, and LoFiT's scales.
    pub fn n_trainable(&self) -> usize {
        let vectors = self.halves.iter().map(|half| half.vectors.numel());
        let head_dim = self.head_dim();
        match self.method {
            Method::Lofit { heads, .. } => self.halves[0].vectors.numel() + heads * head_dim,
            Method::Layerwise { .. } => self.n_open() * head_dim,
            Method::Ungated => vectors.sum(),
            _ => self.n_gates() + vectors.sum::<usize>(),
        }
    }

    /// D, how many numbers a vector has.
    fn head_dim(&self) -> usize {
        self.halves[0].vectors.size()[2] as usize
    }

    /// Numbers that a sidecar of the open gates' vectors holds (reads from the device).
    pub fn n_kept(&self) -> usize {
        let open = self
            .halves
            .iter()
            .map(|half| gates::count_open(&half.log_alpha));
        open.sum::<usize>() * self.head_dim()
    }

    /// All gates, open or closed.
    pub fn n_gates(&self) -> usize {
        self.log_alphas().iter().map(|la| la.numel()).sum()
    }

    /// Gates whose deterministic value is above zero (reads from the device).
    pub fn n_open(&self) -> usize {
        self.log_alphas().into_iter().map(gates::count_open).sum()
    }

    /// Which gates of each kind are open by their deterministic value, [L, H] booleans on
    /// the device; empty without gates.
    pub fn open_gates(&self) -> Vec<(&'static str, Tensor)> {
        if !self.method.gated() {
            return Vec::new();
        }
        let open = |(name, log_alpha): (&'static str, &Tensor)| {
            (name, no_grad(|| gates::deterministic(log_alpha)).gt(0.0))
        };
        self.gates().into_iter().map(open).collect()
    }
}
