//! Which rows' residual streams are kept once heads have been chosen.

use super::memory::layer_bytes;
use super::observer::Observer;
use super::settings::Settings;
use crate::data::{CachedRows, Sampler};
use crate::model::{BatchSize, Model};

/// Keeps what the layers below `lowest`, the lowest changed one, make of the training and the
/// validation rows, as far as it takes no more memory than the estimate of the run counts for
/// those layers' backward pass.
pub(super) fn keep_streams(
    model: &Model,
    settings: &Settings,
    sampler: &Sampler,
    lowest: usize,
    rows: [&mut CachedRows; 2],
    observer: &mut dyn Observer,
) {
    let sequences = rows[0].sequences();
    let sizes = sampler.first(sampler.steps_per_epoch()).map(|chosen| {
        let size = BatchSize::of(chosen.iter().map(|&row| &sequences[row]));
        layer_bytes(&model.config, model.precision, size)
    });
    // Layers that are recomputed leave nothing but what they read.
    let spared = lowest.saturating_sub(settings.recomputed) as u64;
    let mut spared = spared * sizes.max().unwrap_or(0);
    for rows in rows {
        let bytes = rows.stream_bytes(model);
        if bytes > 0 && bytes <= spared {
            spared -= bytes;
            if rows.kept_before() == lowest {
                continue;
            }
            rows.keep(model, lowest);
            observer.log(&format!(
                "layers below all edits, computed once for {} rows: {lowest} ({:.0} MB kept)",
                rows.sequences().len(),
                bytes as f64 / 1e6
            ));
        }
    }
}
