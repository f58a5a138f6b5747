//! The trainable part: for every head a scale and an offset of its output, each behind a gate.
//!
//! Parameters of all layers are stacked, so that the optimiser sees four tensors whatever
//! the size of the model. L layers, H heads, D head width.

use serde::Serialize;
use tch::{no_grad, Device, Tensor};

use crate::gates;
use crate::rng::{Purpose, Rng};

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Scale and offset, each with its own gate per head.
    Jola,
    /// Scale and offset of every head, without gates.
    Ungated,
    /// Gated offsets only.
    Additive,
    /// Gated scales only.
    Multiplicative,
}

impl Method {
    /// The name used on the command line and in sidecars.
    pub fn name(self) -> &'static str {
        match self {
            Method::Jola => "jola",
            Method::Ungated => "ungated",
            Method::Additive => "additive",
            Method::Multiplicative => "multiplicative",
        }
    }

    /// Whether heads are chosen by gates.
    pub fn gated(self) -> bool {
        self != Method::Ungated
    }

    /// Which halves of the edit are trained.
    fn halves(self) -> &'static [Half] {
        match self {
            Method::Jola | Method::Ungated => &[Half::Scale, Half::Offset],
            Method::Additive => &[Half::Offset],
            Method::Multiplicative => &[Half::Scale],
        }
    }
}

/// The two halves of an edit `z' = (1 + g_m·m) ⊙ z + g_a·a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// m
    Scale,
    /// a
    Offset,
}

impl Half {
    /// The name used in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Half::Scale => "scale",
            Half::Offset => "offset",
        }
    }

    /// Names of the vectors and of `log_alpha` in saved state.
    pub fn parameter_names(self) -> (&'static str, &'static str) {
        match self {
            Half::Scale => ("scale.vectors", "scale.log_alpha"),
            Half::Offset => ("offset.vectors", "offset.log_alpha"),
        }
    }
}

/// Vectors of one half with their gates.
#[derive(Debug)]
pub struct GatedVectors {
    /// Which half.
    pub half: Half,
    /// [L, H, D], requires a gradient; in units of `unit`
    pub vectors: Tensor,
    /// [L, H, 1]: 1 for scales; for offsets the size of the head's outputs in the base
    /// model, so that one learning rate fits all heads of all models
    pub unit: Tensor,
    /// [L, H], requires a gradient
    pub log_alpha: Tensor,
}

impl GatedVectors {
    /// Gate times vector, what the edit really is: [L, H, D].
    pub fn product(&self, gate: &GateValues) -> Tensor {
        &self.vectors * (gate.values.unsqueeze(-1) * &self.unit)
    }
}

/// All trainable parameters.
#[derive(Debug)]
pub struct Edits {
    /// How they are trained.
    pub method: Method,
    /// The halves that the method trains.
    pub halves: Vec<GatedVectors>,
}

/// Initial values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Init {
    /// Standard deviation of the vectors.
    pub vector_std: f64,
    /// Value of every `log_alpha`.
    pub log_alpha: f64,
}

/// Values of one half's gates.
#[derive(Debug)]
pub struct GateValues {
    /// [L, H]
    pub values: Tensor,
    /// Per layer, whether any gate may be open; a layer without keeps its graph unedited.
    pub layers: Vec<bool>,
}

/// The edit of one layer as the model applies it: `z' = factor ⊙ z + offset`.
#[derive(Debug, Default)]
pub struct LayerEdit {
    /// [H·D], 1 where nothing is scaled
    pub factor: Option<Tensor>,
    /// [H·D], 0 where nothing is added
    pub offset: Option<Tensor>,
}

impl LayerEdit {
    /// Head outputs `z` [·, H·D] after the edit; both in the same format.
    pub fn apply(&self, z: Tensor) -> Tensor {
        match (&self.factor, &self.offset) {
            (None, None) => z,
            (Some(factor), None) => z * factor,
            (None, Some(offset)) => z + offset,
            (Some(factor), Some(offset)) => offset.addcmul(&z, factor),
        }
    }

    /// One entry per layer that edits nothing.
    pub fn none(n_layer: usize) -> Vec<LayerEdit> {
        (0..n_layer).map(|_| LayerEdit::default()).collect()
    }
}

impl Edits {
    /// Fresh parameters for heads whose outputs in the base model have the root mean
    /// square `head_rms` [L, H]; in its number format and on its device.
    pub fn new(method: Method, head_dim: usize, head_rms: &Tensor, init: Init, seed: u64) -> Edits {
        let (kind, device) = (head_rms.kind(), head_rms.device());
        let (n_layer, n_head) = head_rms.size2().expect("layers by heads");
        let shape = [n_layer, n_head, head_dim as i64];
        let halves = method.halves().iter().map(|&half| {
            let mut rng = Rng::new(seed, Purpose::Init, half as u64);
            let n = shape.iter().product::<i64>();
            let values: Vec<f64> = (0..n).map(|_| rng.normal() * init.vector_std).collect();
            let leaf = |tensor: Tensor| {
                tensor
                    .to_kind(kind)
                    .to_device(device)
                    .set_requires_grad(true)
            };
            GatedVectors {
                half,
                vectors: leaf(Tensor::from_slice(&values).view(shape)),
                unit: match half {
                    Half::Scale => head_rms.ones_like(),
                    Half::Offset => head_rms.copy(),
                }
                .unsqueeze(-1),
                log_alpha: leaf(Tensor::full(
                    &shape[..2],
                    init.log_alpha,
                    (kind, Device::Cpu),
                )),
            }
        });
        Edits {
            method,
            halves: halves.collect(),
        }
    }

    /// Random gates for the forward pass of `step`; all ones without gates.
    pub fn sample_gates(&self, seed: u64, step: usize) -> Vec<GateValues> {
        let mut rng = Rng::new(seed, Purpose::Gates, step as u64);
        let sample = |half: &GatedVectors| {
            let noise: Vec<f64> = (0..half.log_alpha.numel()).map(|_| rng.uniform()).collect();
            let noise = Tensor::from_slice(&noise).view_as(&half.log_alpha);
            let noise = noise
                .to_kind(half.log_alpha.kind())
                .to_device(half.log_alpha.device());
            GateValues::everywhere(gates::sample(&half.log_alpha, &noise))
        };
        if self.method.gated() {
            self.halves.iter().map(sample).collect()
        } else {
            self.fixed_gates()
        }
    }

    /// The gates' deterministic values, without a gradient (reads from the device).
    pub fn fixed_gates(&self) -> Vec<GateValues> {
        let fix = |half: &GatedVectors| {
            if !self.method.gated() {
                return GateValues::everywhere(half.log_alpha.ones_like().detach());
            }
            let values = no_grad(|| gates::deterministic(&half.log_alpha));
            let open = values.gt(0.0).any_dim(1, false);
            let layers = Vec::<bool>::try_from(open).expect("one bool per layer");
            GateValues { values, layers }
        };
        self.halves.iter().map(fix).collect()
    }

    /// The edit of each layer for these gates (one entry per half).
    pub fn layer_edits(&self, gates: &[GateValues]) -> Vec<LayerEdit> {
        let n_layer = self.halves[0].vectors.size()[0] as usize;
        let mut edits = LayerEdit::none(n_layer);
        for (half, gate) in self.halves.iter().zip(gates) {
            let product = half.product(gate); // [L, H, D]
            let rows = match half.half {
                Half::Scale => product + 1.0,
                Half::Offset => product,
            };
            let rows = rows.flatten(1, 2).unbind(0); // L × [H·D]
            for ((edit, row), &edited) in edits.iter_mut().zip(rows).zip(&gate.layers) {
                let slot = match half.half {
                    Half::Scale => &mut edit.factor,
                    Half::Offset => &mut edit.offset,
                };
                *slot = edited.then_some(row);
            }
        }
        edits
    }

    /// `log_alpha` [L, H] of each half.
    pub fn log_alphas(&self) -> Vec<&Tensor> {
        self.halves.iter().map(|half| &half.log_alpha).collect()
    }

    /// Numbers that are trained, gates among them.
    pub fn n_trainable(&self) -> usize {
        let gates = if self.method.gated() {
            self.n_gates()
        } else {
            0
        };
        let vectors = self.halves.iter().map(|half| half.vectors.numel());
        gates + vectors.sum::<usize>()
    }

    /// All gates, open or closed.
    pub fn n_gates(&self) -> usize {
        self.halves.iter().map(|half| half.log_alpha.numel()).sum()
    }

    /// Gates whose deterministic value is above zero (reads from the device).
    pub fn n_open(&self) -> usize {
        if self.method.gated() {
            self.halves
                .iter()
                .map(|half| gates::count_open(&half.log_alpha))
                .sum()
        } else {
            self.n_gates()
        }
    }

    /// Which gates of each half are open by their deterministic value, [L, H] booleans on
    /// the device; empty without gates.
    pub fn open_gates(&self) -> Vec<(&'static str, Tensor)> {
        if !self.method.gated() {
            return Vec::new();
        }
        let open = |half: &GatedVectors| {
            let values = no_grad(|| gates::deterministic(&half.log_alpha));
            (half.half.name(), values.gt(0.0))
        };
        self.halves.iter().map(open).collect()
    }

    /// Closes the gates with the lowest `log_alpha` until the share `sparsity` of all gates
    /// is closed; more may be closed already.
    pub fn close_to(&mut self, sparsity: f64) {
        let wanted = (self.n_gates() as f64 * sparsity - 1e-9).ceil() as i64;
        let closed = gates::closing_log_alpha() - 1.0;
        no_grad(|| {
            let flat: Vec<Tensor> = self
                .log_alphas()
                .iter()
                .map(|la| la.flatten(0, -1))
                .collect();
            let all = Tensor::cat(&flat, 0);
            let (lowest, indices) = all.topk(wanted, 0, false, false);
            let all = all.index_copy(0, &indices, &lowest.clamp_max(closed));
            let sizes: Vec<i64> = flat.iter().map(|la| la.numel() as i64).collect();
            for (half, values) in self.halves.iter_mut().zip(all.split_with_sizes(sizes, 0)) {
                half.log_alpha.copy_(&values.view_as(&half.log_alpha));
            }
        });
    }
}

impl GateValues {
    fn everywhere(values: Tensor) -> GateValues {
        let layers = vec![true; values.size()[0] as usize];
        GateValues { values, layers }
    }
}
