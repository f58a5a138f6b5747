//! Rotary position embedding: which angle each pair of a head turns per position, with the
//! scalings that stretch a model's context. The formulas are ggml's (`rope_yarn`).

use super::keys::Keys;
use crate::Error;

/// One way to rotate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Numbers of a head that are rotated, from its start.
    pub dim: usize,
    /// Base of the frequencies.
    pub base: f64,
    /// Positions are multiplied by this (interpolation; 1 without).
    pub scale: f64,
    /// YaRN: pairs that turn often within the original context are not interpolated.
    pub yarn: bool,
    /// Queries and keys are multiplied by this, besides what YaRN does to them.
    pub attention_factor: f64,
    /// Context that the model was trained for before it was stretched, in tokens.
    pub n_context: usize,
}

/// YaRN: pairs that turn more often than this in the original context keep their angle.
const YARN_FAST: f64 = 32.0;
/// YaRN: pairs that turn less often than this are interpolated fully.
const YARN_SLOW: f64 = 1.0;

impl Rope {
    /// Reads how most layers rotate from the keys `rope.*`.
    ///
    /// # Errors
    /// [`Error::Base`] for an unknown scaling type, and for ill-typed keys.
    pub(crate) fn read(keys: &Keys, dim: usize, n_context: usize) -> Result<Rope, Error> {
        let kind = keys.text("rope.scaling.type")?.unwrap_or("linear");
        let factor = match keys.optional_float("rope.scaling.factor")? {
            None => keys.optional_float("rope.scale_linear")?, // the old name
            factor => factor,
        };
        let scale = match factor {
            None | Some(0.0) => 1.0,
            Some(factor) => 1.0 / factor,
        };
        let scale = match kind {
            "none" => 1.0,
            "linear" | "yarn" | "longrope" => scale,
            other => {
                let known = "none, linear, yarn, longrope";
                let what = format!("rope scaling of type `{other}` (known: {known})");
                return Err(keys.refuse(&what));
            }
        };
        Ok(Rope {
            dim,
            base: keys.float_or("rope.freq_base", 10_000.0)?,
            scale,
            yarn: kind == "yarn",
            attention_factor: keys.float_or("rope.scaling.attn_factor", 1.0)?,
            n_context: keys.count_or("rope.scaling.original_context_length", n_context)?,
        })
    }

    /// The factor on rotated queries and keys.
    pub fn magnitude(&self) -> f64 {
        let stretch = if self.yarn { -self.scale.ln() } else { 0.0 };
        self.attention_factor * (1.0 + 0.1 * stretch.max(0.0))
    }

    /// The angle of each pair at position 1, `dim / 2` of them.
    pub fn frequencies(&self) -> Vec<f64> {
        let half = self.dim / 2;
        let frequency = |i: usize| self.base.powf(-(i as f64) / half as f64);
        (0..half)
            .map(|i| {
                let kept = self.share_kept(i);
                frequency(i) * (self.scale * (1.0 - kept) + kept)
            })
            .collect()
    }

    /// How much of pair `i`'s angle is not interpolated, from 0 to 1.
    fn share_kept(&self, i: usize) -> f64 {
        if !self.yarn {
            return 0.0;
        }
        // The pair that turns `times` times in the original context.
        let pair = |times: f64| {
            let turns = self.n_context as f64 / (times * std::f64::consts::TAU);
            self.dim as f64 * turns.ln() / (2.0 * self.base.ln())
        };
        let first = pair(YARN_FAST).floor().max(0.0);
        let last = pair(YARN_SLOW).ceil().min(self.dim as f64 - 1.0);
        let ramp = (i as f64 - first) / (last - first).max(0.001);
        1.0 - ramp.clamp(0.0, 1.0)
    }
}
