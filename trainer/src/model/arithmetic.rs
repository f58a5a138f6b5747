//! Small steps of arithmetic that several parts of a layer take.

use tch::{Kind, Tensor};

/// x / rms(x) · weight over the last dimension, in the format of `weight`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let math = weight.kind();
    let y = x.to_kind(math);
    if y.device().is_cuda() {
        return y.rms_norm(weight.size(), Some(weight), eps); // one kernel
    }
    let scale = (y.square().mean_dim(-1, true, math) + eps).rsqrt();
    y * scale * weight
}

/// `x` after the norm, if there is one, in format `kind`.
pub(super) fn optional_norm(x: &Tensor, weight: Option<&Tensor>, eps: f64, kind: Kind) -> Tensor {
    match weight {
        Some(weight) => rms_norm(x, weight, eps).to_kind(kind),
        None => x.to_kind(kind),
    }
}

/// x · factor
pub(super) fn scaled(x: Tensor, factor: f64) -> Tensor {
    if factor == 1.0 {
        x
    } else {
        x * factor
    }
}
