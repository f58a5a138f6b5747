//! The end of the choice of heads.

use super::observer::Observer;
use crate::method::{ClosedShares, Edits, Method};

/// Closes what is missing to the target and fixes the rest, or takes the heads that LoFiT's
/// scales name.
pub(super) fn choose_heads(
    edits: &mut Edits,
    target: Option<ClosedShares>,
    observer: &mut dyn Observer,
) {
    if let Method::Lofit { heads, .. } = edits.method {
        edits.choose_by_scale(heads);
        observer.log(&format!("chose {heads} heads by their scales"));
    } else if edits.method.gated() {
        if let Some(shares) = target {
            let open = edits.n_open();
            edits.close_to(shares);
            let short = open - edits.n_open();
            if short > 0 {
                observer.log(&format!(
                    "pruning ended {short} gates short of sparsity {shares}: closed those with the lowest log_alpha"
                ));
            }
        }
        let (open, gates) = (edits.n_open(), edits.n_gates());
        observer.log(&format!("gates fixed: {open} of {gates} open"));
    }
    edits.fix();
}
