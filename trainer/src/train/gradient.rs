//! The loss of a batch and its gradient, with less memory if need be.
//!
//! Beside the cross-entropy of the answers stands the Kullback-Leibler divergence of what the
//! unedited model says next at places of the prompts from what the edited one says there: an edit
//! acts on every token, and without it nothing keeps it from changing all other text
//! (`research/recipe.md`).
//!
//! The backward pass of a frozen layer needs about ten times what the layer reads. With
//! recomputation (Chen et al. 2016) the lower layers keep only what they read and are
//! recomputed when the backward pass reaches them, one at a time, at the price of a
//! second forward pass through them. The gradient is the same.
//!
//! float16 ends at 65504 and loses what is below 6e-8. Where layers compute in it, the gradient
//! enters them multiplied by a power of two that makes its largest number about one, and is
//! divided again where it is left on the edits; a gradient that overflows all the same counts as
//! none. All of it stays on the device.

use std::ops::Range;

use tch::{no_grad, Kind, Reduction, Tensor};

use crate::model::{Batch, Head, LayerChange, Model};

/// Mean cross-entropy of the batch's targets, one number with a gradient.
pub fn cross_entropy(model: &Model, batch: &Batch, changes: &[LayerChange]) -> Tensor {
    let logits = model.forward(batch, changes);
    logits.cross_entropy_loss::<Tensor>(&batch.targets, None, Reduction::Mean, -100, 0.0)
}

/// What a batch's answers and its places of prompts have come to; single numbers on the device.
#[derive(Debug)]
pub struct Losses {
    /// Mean cross-entropy of the targets.
    pub task: Tensor,
    /// Mean divergence from the unedited model; none without a reference.
    pub kl: Option<Tensor>,
}

/// The losses of a batch for the residual stream `x` [R, d] behind the last layer, and the
/// gradient of their sum [R, d] where `x` has one. Logits of a few rows are there at a time.
fn loss_at(head: &Head, x: &Tensor, batch: &Batch) -> (Losses, Option<Tensor>) {
    let leaf = x.detach().set_requires_grad(x.requires_grad());
    let weight = batch.reference.as_ref().map(|reference| reference.weight);
    let pieces = head.pieces(leaf.size()[0]).map(|rows| {
        let [task, kl] = piece_losses(head, &leaf, batch, rows);
        if leaf.requires_grad() {
            (&task + &kl * weight.unwrap_or(0.0)).backward();
        }
        (task.detach(), kl.detach())
    });
    let (task, kl): (Vec<Tensor>, Vec<Tensor>) = pieces.unzip();
    let losses = Losses {
        task: task.into_iter().sum(),
        kl: weight.map(|_| kl.into_iter().sum()),
    };
    (losses, leaf.requires_grad().then(|| leaf.grad()))
}

/// What these rows of the residual stream `x` [R, d] add to the mean cross-entropy, and to the
/// mean divergence. Their logits and those of the unedited model are one product: a CPU takes
/// nearly as long for a few rows as for twice as many, since it reads the whole output matrix.
fn piece_losses(head: &Head, x: &Tensor, batch: &Batch, rows: Range<i64>) -> [Tensor; 2] {
    let n_targets = batch.targets.size()[0];
    let answers = rows.start.min(n_targets)..rows.end.min(n_targets);
    let compared = rows.start.max(n_targets)..rows.end.max(n_targets);
    let [n_answers, n_compared] = [&answers, &compared].map(|part| part.end - part.start);
    let edited = x.narrow(0, rows.start, rows.end - rows.start);
    let unedited = match &batch.reference {
        Some(reference) => {
            let start = compared.start - n_targets;
            reference.stream.narrow(0, start, n_compared)
        }
        None => x.narrow(0, 0, 0),
    };
    let streams = [edited, unedited.to_device(x.device())];
    let parts = [n_answers, n_compared, n_compared];
    let logits = head
        .logits(&Tensor::cat(&streams, 0))
        .split_with_sizes(parts, 0);
    let targets = batch.targets.narrow(0, answers.start, n_answers);
    let targets = targets.to_device(logits[0].device());
    let task = logits[0].cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, 0.0);
    let unedited = logits[2].detach().log_softmax(-1, None);
    let kl = logits[1].log_softmax(-1, None);
    let kl = kl.kl_div(&unedited, Reduction::Sum, true);
    let n_rows = x.size()[0] - n_targets;
    [task / n_targets.max(1) as f64, kl / n_rows.max(1) as f64]
}

/// Leaves on everything that `x` was made from its share of the gradient [as `x`].
fn hand_down(x: &Tensor, gradient: &Tensor) {
    (x * gradient).sum(x.kind()).backward();
}

/// The losses of the batch, with their backward pass done: the gradient is left on what
/// `changes` were made from. The lowest `recomputed` layers are computed twice for it.
pub fn backward(
    model: &Model,
    batch: &Batch,
    changes: &[LayerChange],
    recomputed: usize,
) -> Losses {
    let lowest = changes.iter().position(|change| !change.is_empty());
    let half = model.precision.storage == Kind::Half;
    match lowest {
        Some(lowest) if lowest < recomputed || half => {
            through_layers(model, batch, changes, lowest, recomputed)
        }
        _ => {
            let x = model.residual(batch, changes);
            let (losses, gradient) = loss_at(&model.head(), &x, batch);
            if let Some(gradient) = gradient {
                hand_down(&x, &gradient);
            }
            losses
        }
    }
}

/// A power of two that makes the largest number of a gradient one to two; a number on its
/// device.
fn half_scale(gradient: &Tensor) -> Tensor {
    let largest = gradient.abs().max().clamp_min(f64::from(f32::MIN_POSITIVE));
    largest.log2().floor().neg().exp2()
}

/// Gradients that were multiplied by `scale`; zeros where any of them is not finite.
fn unscaled(gradients: Vec<Tensor>, scale: &Tensor) -> Vec<Tensor> {
    let sums: Vec<Tensor> = gradients.iter().map(|g| g.sum(g.kind())).collect();
    let finite = Tensor::stack(&sums, 0).isfinite().all();
    let checked = gradients.iter().map(|gradient| {
        let gradient = gradient / scale;
        gradient.where_self(&finite, &gradient.zeros_like())
    });
    checked.collect()
}

/// [`backward`], with layers `lowest..recomputed` gone through one by one.
fn through_layers(
    model: &Model,
    batch: &Batch,
    changes: &[LayerChange],
    lowest: usize,
    recomputed: usize,
) -> Losses {
    // The changes of all layers hang together in the graph of their parameters. Cut off here,
    // each layer can have its own backward pass; the parameters get theirs at the end.
    let cut: Vec<LayerChange> = changes.iter().map(LayerChange::cut).collect();
    let pass = model.pass_context(batch);
    let half = model.precision.storage == Kind::Half;
    let layer = |l: usize, x: Tensor| model.changed_layer(l, x, batch, &pass, &cut[l]);
    let leaf = |x: Tensor, with_gradient| x.detach().set_requires_grad(with_gradient);

    let mut inputs: Vec<Tensor> = Vec::with_capacity(recomputed);
    let (entered, x) = model.begin(batch);
    let x = no_grad(|| {
        (entered..recomputed).fold(x, |x, l| {
            inputs.push(x.shallow_clone());
            layer(l, x)
        })
    });
    let x = leaf(x, lowest < recomputed);
    let top = (recomputed.max(entered)..changes.len()).fold(x.shallow_clone(), |x, l| layer(l, x));
    let (losses, gradient) = loss_at(&model.head(), &top, batch);
    let gradient = gradient.expect("a layer has a change");
    let scale = half.then(|| half_scale(&gradient));
    hand_down(
        &top,
        &scale
            .as_ref()
            .map_or(gradient.shallow_clone(), |s| &gradient * s),
    );
    drop(top);
    let mut gradient = x.grad();
    for (l, x) in (entered..recomputed)
        .zip(inputs)
        .skip(lowest - entered)
        .rev()
    {
        let x = leaf(x, l > lowest);
        hand_down(&layer(l, x.shallow_clone()), &gradient);
        gradient = x.grad();
    }

    let tensors = changes.iter().flat_map(LayerChange::tensors);
    let mut gradients: Vec<Tensor> = cut
        .iter()
        .flat_map(LayerChange::tensors)
        .map(Tensor::grad)
        .collect();
    if let Some(scale) = scale {
        gradients = unscaled(gradients, &scale);
    }
    let shares = tensors
        .zip(&gradients)
        .map(|(tensor, gradient)| (tensor * gradient).sum(gradient.kind()));
    shares.sum::<Tensor>().backward();
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_come_back_as_they_were_or_not_at_all() {
        for largest in [3e-9, 0.7, 1.0, 5e6] {
            let gradient = Tensor::from_slice(&[largest, -largest / 3.0]);
            let scale = half_scale(&gradient);
            let scaled = (&gradient * &scale).abs().max().double_value(&[]);
            assert!((1.0..2.0).contains(&scaled), "{largest} became {scaled}");
            let back = unscaled(vec![&gradient * &scale], &scale);
            assert!(back[0].equal(&gradient));
            let spoilt = Tensor::from_slice(&[f64::INFINITY, 1.0]);
            let back = unscaled(vec![&gradient * &scale, spoilt], &scale);
            assert!(back.iter().all(|g| g.equal(&g.zeros_like())));
        }
        let none = Tensor::from_slice(&[0f32]);
        assert!(half_scale(&none).isfinite().all().int64_value(&[]) == 1);
    }
}
