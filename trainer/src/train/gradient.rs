//! The loss of a batch and its gradient, with less memory if need be.
//!
//! The backward pass of a frozen layer needs about ten times what the layer reads. With
//! recomputation (Chen et al. 2016) the lower layers keep only what they read and are
//! recomputed when the backward pass reaches them, one at a time, at the price of a
//! second forward pass through them. The gradient is the same.

use tch::{no_grad, Reduction, Tensor};

use crate::model::{Batch, Head, LayerChange, Model};

/// Mean cross-entropy of the batch's targets, one number with a gradient.
pub fn cross_entropy(model: &Model, batch: &Batch, changes: &[LayerChange]) -> Tensor {
    let logits = model.forward(batch, changes);
    logits.cross_entropy_loss::<Tensor>(&batch.targets, None, Reduction::Mean, -100, 0.0)
}

/// Mean cross-entropy of the batch's targets for the residual stream `x` [R, d] behind the last
/// layer, and its gradient [R, d] where `x` has one. Logits of a few rows are there at a time.
fn loss_at(head: &Head, x: &Tensor, batch: &Batch) -> (Tensor, Option<Tensor>) {
    let rows = x.size()[0];
    let leaf = x.detach().set_requires_grad(x.requires_grad());
    let losses = head.pieces(rows).map(|(start, len)| {
        let logits = head.logits(&leaf.narrow(0, start, len));
        let targets = batch.targets.narrow(0, start, len);
        let sum = logits.cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, 0.0);
        let loss = sum / rows as f64;
        if loss.requires_grad() {
            loss.backward();
        }
        loss.detach()
    });
    let losses: Vec<Tensor> = losses.collect();
    let loss = match &losses[..] {
        [loss] => loss.shallow_clone(),
        _ => Tensor::stack(&losses, 0).sum(x.kind()),
    };
    (loss, leaf.requires_grad().then(|| leaf.grad()))
}

/// Leaves on everything that `x` was made from its share of the gradient [as `x`].
fn hand_down(x: &Tensor, gradient: &Tensor) {
    (x * gradient).sum(x.kind()).backward();
}

/// Mean cross-entropy of the batch's targets, with its backward pass done: the gradient is
/// left on what `changes` were made from. The lowest `recomputed` layers are computed twice for
/// it.
pub fn backward(
    model: &Model,
    batch: &Batch,
    changes: &[LayerChange],
    recomputed: usize,
) -> Tensor {
    let lowest = changes.iter().position(|change| !change.is_empty());
    match lowest {
        Some(lowest) if lowest < recomputed => {
            through_layers(model, batch, changes, lowest, recomputed)
        }
        _ => {
            let x = model.residual(batch, changes);
            let (loss, gradient) = loss_at(&model.head(), &x, batch);
            if let Some(gradient) = gradient {
                hand_down(&x, &gradient);
            }
            loss
        }
    }
}

/// [`backward`], with layers `lowest..recomputed` gone through one by one.
fn through_layers(
    model: &Model,
    batch: &Batch,
    changes: &[LayerChange],
    lowest: usize,
    recomputed: usize,
) -> Tensor {
    // The changes of all layers hang together in the graph of their parameters. Cut off here,
    // each layer can have its own backward pass; the parameters get theirs at the end.
    let cut: Vec<LayerChange> = changes.iter().map(LayerChange::cut).collect();
    let pass = model.pass_context(batch);
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
    let x = leaf(x, true);
    let top = (recomputed..changes.len()).fold(x.shallow_clone(), |x, l| layer(l, x));
    let (loss, gradient) = loss_at(&model.head(), &top, batch);
    hand_down(&top, &gradient.expect("a leaf with a gradient is below"));
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

    let pairs = changes.iter().zip(&cut);
    let shares = pairs.flat_map(|(change, cut)| {
        let tensors = change.tensors().into_iter().zip(cut.tensors());
        tensors.map(|(tensor, leaf)| (tensor * leaf.grad()).sum(leaf.kind()))
    });
    shares.sum::<Tensor>().backward();
    loss
}
