//! The end of the choice of heads: which gates stay open.

use tch::no_grad;

use super::edits::Edits;
use super::gates;
use super::sparsity::ClosedShares;

impl Edits {
    /// Closes the gates with the lowest `log_alpha` until these shares, below 1, are closed;
    /// more may be closed already. One of each kind may stay open. Gates that heads have for
    /// both halves go by the share of the scales.
    pub fn close_to(&mut self, shares: ClosedShares) {
        let closed = gates::closed_log_alpha();
        no_grad(|| {
            for (half, log_alpha) in self.kinds() {
                let mut flat = log_alpha.view([-1]);
                let n_gates = flat.numel();
                let wanted = (n_gates as f64 * shares.of(half) - 1e-9).ceil() as usize;
                let wanted = wanted.min(n_gates - 1) as i64;
                let (lowest, indices) = flat.topk(wanted, 0, false, false);
                let _ = flat.index_copy_(0, &indices, &lowest.clamp_max(closed));
            }
        });
    }

    /// LoFiT's choice: ranks heads by the norm of their scales, forgets the scales, and
    /// opens the offsets of the first `count`.
    pub fn choose_by_scale(&mut self, count: usize) {
        let open = gates::open_log_alpha();
        no_grad(|| {
            for half in &mut self.halves {
                let _ = half.log_alpha.fill_(gates::closed_log_alpha());
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
