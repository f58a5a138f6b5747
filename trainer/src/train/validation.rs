//! How well edits do on rows that they were not trained on.

use tch::{no_grad, Reduction, Tensor};

use crate::model::batch::passes;
use crate::method::edits::LayerEdit;
use crate::model::decoder::Model;
use crate::train::step_record::Validation;
use crate::data::cached_rows::Rows;

/// Loss and exact matches of `rows` under `edits`; there must be some.
pub fn evaluate(model: &Model, edits: &[LayerEdit], rows: &Rows) -> Validation {
    let (mut loss, mut targets, mut exact) = (0.0, 0, 0);
    let sequences = rows.sequences();
    for pass in passes(sequences) {
        let batch = rows.pack(&pass.clone().collect::<Vec<_>>(), model.device());
        let (sum, hits) = no_grad(|| {
            let logits = model.forward(&batch, edits);
            let sum = logits.cross_entropy_loss::<Tensor>(
                &batch.targets,
                None,
                Reduction::Sum,
                -100,
                0.0,
            );
            (
                sum.double_value(&[]),
                logits.argmax(-1, false).eq_tensor(&batch.targets),
            )
        });
        loss += sum;
        targets += batch.n_rows();
        let hits = Vec::<bool>::try_from(hits).expect("one bool per target");
        let mut hits = hits.as_slice();
        for sequence in &sequences[pass] {
            let (own, others) = hits.split_at(sequence.n_targets());
            exact += usize::from(own.iter().all(|&hit| hit));
            hits = others;
        }
    }
    Validation {
        loss: loss / targets as f64,
        exact: exact as f64 / sequences.len() as f64,
    }
}
