//! The loss of a batch and its gradient, with less memory if need be.
//!
//! The backward pass of a frozen layer needs about ten times what the layer reads. With
//! recomputation (Chen et al. 2016) the lower layers keep only what they read and are
//! computed again when the backward pass reaches them, one at a time, at the price of a
//! second forward pass through them. The gradient is the same.

use tch::{no_grad, Reduction, Tensor};

use crate::model::attention::Shared;
use crate::model::batch::Batch;
use crate::method::edits::LayerEdit;
use crate::model::decoder::Model;

/// Mean cross-entropy of the batch's targets, one number with a gradient.
pub fn cross_entropy(model: &Model, batch: &Batch, edits: &[LayerEdit]) -> Tensor {
    mean_loss(&model.forward(batch, edits), batch)
}

/// The same for `logits` [R, V] of the batch's rows.
fn mean_loss(logits: &Tensor, batch: &Batch) -> Tensor {
    logits.cross_entropy_loss::<Tensor>(&batch.targets, None, Reduction::Mean, -100, 0.0)
}

/// Mean cross-entropy of the batch's targets, with its backward pass done: the gradient is
/// left on what `edits` were made from. The `again` lowest layers are computed again for it.
///
/// The result requires a gradient if any edit does.
pub fn backward(model: &Model, batch: &Batch, edits: &[LayerEdit], again: usize) -> Tensor {
    let lowest = edits.iter().position(|edit| !edit.is_empty());
    match lowest {
        Some(lowest) if lowest < again => through_layers(model, batch, edits, lowest, again),
        _ => {
            let loss = cross_entropy(model, batch, edits);
            if loss.requires_grad() {
                loss.backward();
            }
            loss
        }
    }
}

/// [`backward`], with layers `lowest..again` gone through one by one.
fn through_layers(
    model: &Model,
    batch: &Batch,
    edits: &[LayerEdit],
    lowest: usize,
    again: usize,
) -> Tensor {
    // The edits of all layers hang together in the graph of their parameters. Cut off here,
    // each layer can have its own backward pass; the parameters get theirs at the end.
    let cut: Vec<LayerEdit> = edits.iter().map(LayerEdit::cut).collect();
    let shared = Shared::new(model, batch);
    let layer = |l: usize, x: Tensor| {
        let edit = &cut[l];
        model.layer(l, x, batch, &shared, &edit.lora, |z| edit.apply(z))
    };
    let leaf = |x: Tensor, with_gradient| x.detach().set_requires_grad(with_gradient);

    let mut inputs: Vec<Tensor> = Vec::with_capacity(again);
    let (entered, x) = model.begin(batch);
    let x = no_grad(|| {
        (entered..again).fold(x, |x, l| {
            inputs.push(x.shallow_clone());
            layer(l, x)
        })
    });
    let x = leaf(x, true);
    let top = (again..edits.len()).fold(x.shallow_clone(), |x, l| layer(l, x));
    let loss = mean_loss(&model.logits(&top), batch);
    loss.backward();
    drop(top);
    let mut gradient = x.grad();
    for (l, x) in (entered..again).zip(inputs).skip(lowest - entered).rev() {
        let x = leaf(x, l > lowest);
        let y = layer(l, x.shallow_clone());
        (y * gradient).sum(x.kind()).backward();
        gradient = x.grad();
    }

    let pairs = edits.iter().zip(&cut);
    let shares = pairs.flat_map(|(edit, cut)| {
        let tensors = edit.tensors().into_iter().zip(cut.tensors());
        tensors.map(|(tensor, leaf)| (tensor * leaf.grad()).sum(leaf.kind()))
    });
    shares.sum::<Tensor>().backward();
    loss
}
