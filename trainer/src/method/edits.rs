//! The trainable part: for every head a scale and an offset of its output, each behind a gate.
//!
//! Parameters of all layers are stacked, so that the optimiser sees four tensors whatever
//! the size of the model. L layers, H heads, D head width.

use serde::Serialize;
use tch::{no_grad, Tensor};

use crate::method::gates;
use crate::method::lora::LayerLora;
use crate::method::methods::Method;
use crate::train::penalty::Shares;
use crate::rng::{Purpose, Rng};

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
    /// [L, H], requires a gradient; one tensor for both halves where they share a gate
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
    /// Gates that no longer change: their values, one entry per half.
    fixed: Option<Vec<GateValues>>,
}

/// Initial values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Init {
    /// Standard deviation of the vectors.
    pub vector_std: f64,
    /// Value of every `log_alpha`, or the middle of them.
    pub log_alpha: f64,
    /// They are uniform in so much below and above it.
    pub log_alpha_spread: f64,
    /// Offsets are in the model's own units instead of those of a head's outputs.
    pub plain_offsets: bool,
}

impl Init {
    /// Open gates, and vectors that change next to nothing.
    pub const DEFAULT: Init = Init {
        vector_std: 1e-3,
        log_alpha: 2.0,
        log_alpha_spread: 0.0,
        plain_offsets: false,
    };
}

/// Values of one half's gates.
#[derive(Debug)]
pub struct GateValues {
    /// [L, H]
    pub values: Tensor,
    /// Per layer, whether any gate may be open; a layer without keeps its graph unedited.
    pub layers: Vec<bool>,
}

/// What changes in one layer as the model applies it: head outputs, `z' = factor ⊙ z +
/// offset`, and weight matrices.
#[derive(Debug, Default)]
pub struct LayerEdit {
    /// [H·D], 1 where nothing is scaled
    pub factor: Option<Tensor>,
    /// [H·D], 0 where nothing is added
    pub offset: Option<Tensor>,
    /// Low-rank changes of the layer's matrices
    pub lora: LayerLora,
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

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.tensors().is_empty()
    }

    /// All tensors, in a fixed order.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let own = [&self.factor, &self.offset];
        let own = own.into_iter().filter_map(Option::as_ref);
        own.chain(self.lora.tensors()).collect()
    }

    /// The same edit, with tensors that are parameters of their own.
    pub fn cut(&self) -> LayerEdit {
        let cut = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        LayerEdit {
            factor: self.factor.as_ref().map(cut),
            offset: self.offset.as_ref().map(cut),
            lora: self.lora.map(cut),
        }
    }

    /// One entry per layer that edits nothing.
    pub fn none(n_layer: usize) -> Vec<LayerEdit> {
        (0..n_layer).map(|_| LayerEdit::default()).collect()
    }
}

impl Method {
    /// The halves that are trained.
    fn halves(&self) -> &'static [Half] {
        match self {
            Method::Jola | Method::SharedGate | Method::Ungated | Method::Lofit { .. } => {
                &[Half::Scale, Half::Offset]
            }
            Method::Additive | Method::Layerwise { .. } => &[Half::Offset],
            Method::Multiplicative => &[Half::Scale],
            Method::Lora(_) => &[],
        }
    }

    /// Where the gates [L, H] of a half stand at first. Without gates that learn they say
    /// which heads are edited: those far above the value that opens a gate fully.
    fn initial_log_alpha(
        &self,
        half: Half,
        init: Init,
        [n_layer, n_head]: [i64; 2],
        seed: u64,
    ) -> Vec<f64> {
        let mut rng = Rng::new(seed, Purpose::InitGates, half as u64);
        let (open, closed) = (gates::opening_log_alpha() + 1.0, closed_log_alpha());
        let mut of_layer = |layer: i64| match self {
            Method::Lofit { .. } if half == Half::Offset => closed,
            Method::Layerwise { layers } if !layers.contains(&(layer as usize)) => closed,
            _ if self.gated() => {
                init.log_alpha + init.log_alpha_spread * (2.0 * rng.uniform() - 1.0)
            }
            _ => open,
        };
        let gates = (0..n_layer * n_head).map(|gate| of_layer(gate / n_head));
        gates.collect()
    }
}

/// A value at which a gate is surely closed.
fn closed_log_alpha() -> f64 {
    gates::closing_log_alpha() - 1.0
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
                    let values = method.initial_log_alpha(half, init, [n_layer, n_head], seed);
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
        self.fixed = Some(self.fixed_gates());
    }

    /// What training applies. While heads are chosen, gates are random, with the `noise` of
    /// this seed and step, or have their deterministic value.
    pub fn training_edits(&self, noise: Option<(u64, usize)>) -> Vec<LayerEdit> {
        match (&self.fixed, noise) {
            (Some(fixed), _) => self.layer_edits(fixed),
            (None, Some((seed, step))) => self.layer_edits(&self.sample_gates(seed, step)),
            (None, None) => self.layer_edits(&self.calm_gates()),
        }
    }

    /// What the trained edit is now.
    pub fn final_edits(&self) -> Vec<LayerEdit> {
        match &self.fixed {
            Some(fixed) => self.layer_edits(fixed),
            None => self.layer_edits(&self.fixed_gates()),
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

    /// The gates' deterministic values, with a gradient, one entry per half.
    fn calm_gates(&self) -> Vec<GateValues> {
        let calm =
            |half: &GatedVectors| GateValues::everywhere(gates::deterministic(&half.log_alpha));
        self.halves.iter().map(calm).collect()
    }

    /// The gates' deterministic values, without a gradient, one entry per half (reads from
    /// the device).
    pub fn fixed_gates(&self) -> Vec<GateValues> {
        let fix = |half: &GatedVectors| {
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
            if !gate.layers.contains(&true) {
                continue;
            }
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
        let head_dim = self.halves[0].vectors.size()[2] as usize;
        match self.method {
            Method::Lofit { heads, .. } => self.halves[0].vectors.numel() + heads * head_dim,
            Method::Layerwise { .. } => self.n_open() * head_dim,
            Method::Ungated => vectors.sum(),
            _ => self.n_gates() + vectors.sum::<usize>(),
        }
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

    /// Closes the gates with the lowest `log_alpha` until these shares, below 1, are closed;
    /// more may be closed already. One of each kind may stay open.
    pub fn close_to(&mut self, shares: Shares) {
        let closed = closed_log_alpha();
        no_grad(|| {
            for half in &mut self.halves {
                let mut flat = half.log_alpha.view([-1]);
                let n_gates = flat.numel();
                let wanted = (n_gates as f64 * shares.of(half.half) - 1e-9).ceil() as usize;
                let wanted = wanted.min(n_gates - 1) as i64;
                let (lowest, indices) = flat.topk(wanted, 0, false, false);
                let _ = flat.index_copy_(0, &indices, &lowest.clamp_max(closed));
            }
        });
    }

    /// LoFiT's choice: ranks heads by the norm of their scales, forgets the scales, and
    /// opens the offsets of the first `count`.
    pub fn choose_by_scale(&mut self, count: usize) {
        let open = gates::opening_log_alpha() + 1.0;
        no_grad(|| {
            for half in &mut self.halves {
                let _ = half.log_alpha.fill_(closed_log_alpha());
            }
            let [scale, offset] = &mut self.halves[..] else {
                unreachable!("scales choose the heads of offsets");
            };
            let norms = scale
                .vectors
                .norm_scalaropt_dim(2.0, [-1i64].as_slice(), false);
            let (_, chosen) = norms.flatten(0, -1).topk(count as i64, 0, true, true);
            let mut flat = offset.log_alpha.view([-1]);
            let _ = flat.index_fill_(0, &chosen, open);
        });
    }
}

impl GateValues {
    fn everywhere(values: Tensor) -> GateValues {
        let layers = vec![true; values.size()[0] as usize];
        GateValues { values, layers }
    }
}
