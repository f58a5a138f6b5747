//! Dequantising stored rows into a tensor on the CPU, by ggml's own code, on all threads.

use std::sync::Mutex;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use tch::{Kind, Tensor};

use crate::base::StoredRows;

/// Dequantises `parts`, one after the other, into `target`: contiguous, on the CPU, of as many
/// numbers, which are rounded to its format as libtorch rounds.
///
/// # Errors
/// [`llama_jola::Error::Dequantize`].
///
/// # Panics
/// For a target that is not like that.
pub(super) fn fill(parts: &[StoredRows], target: &Tensor) -> Result<(), llama_jola::Error> {
    let numbers: usize = parts.iter().map(|part| part.rows * part.columns).sum();
    assert!(target.is_contiguous() && target.device() == tch::Device::Cpu);
    assert_eq!(numbers, target.numel());
    macro_rules! fill_as {
        ($number:ty, $round:expr) => {{
            // SAFETY: the tensor's memory holds so many numbers of this format, and nothing else
            // reads or writes it meanwhile.
            let target = unsafe {
                std::slice::from_raw_parts_mut(target.data_ptr().cast::<$number>(), numbers)
            };
            fill_slice(parts, target, $round)
        }};
    }
    match target.kind() {
        Kind::Float => fill_as!(f32, |from, to| to.copy_from_slice(from)),
        Kind::BFloat16 => fill_as!(bf16, |from, to| to.convert_from_f32_slice(from)),
        Kind::Half => fill_as!(f16, |from, to| to.convert_from_f32_slice(from)),
        Kind::Double => fill_as!(f64, |from: &[f32], to: &mut [f64]| {
            let pairs = to.iter_mut().zip(from);
            pairs.for_each(|(to, from)| *to = f64::from(*from));
        }),
        other => panic!("weights are no {other:?}"),
    }
}

/// Some rows of a part, and where they go.
type Chunk<'a, T> = (&'a StoredRows<'a>, usize, &'a mut [T]);

fn fill_slice<T: Send>(
    parts: &[StoredRows],
    mut target: &mut [T],
    round: impl Fn(&[f32], &mut [T]) + Sync,
) -> Result<(), llama_jola::Error> {
    let mut chunks: Vec<Chunk<T>> = Vec::new();
    for part in parts {
        let rows_per_chunk = part.rows_per_chunk();
        for start in (0..part.rows).step_by(rows_per_chunk) {
            let count = rows_per_chunk.min(part.rows - start);
            let (own, rest) = target.split_at_mut(count * part.columns);
            target = rest;
            chunks.push((part, start, own));
        }
    }
    let threads = (tch::get_num_threads().max(1) as usize).min(chunks.len());
    let chunks = Mutex::new(chunks.into_iter());
    let work = || {
        let mut floats = Vec::new();
        loop {
            let next = chunks.lock().expect("no thread panics with it").next();
            let Some((part, start, target)) = next else {
                return Ok(());
            };
            floats.resize(target.len(), 0.0);
            part.dequantise(start, &mut floats)?;
            round(&floats, target);
        }
    };
    if threads <= 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("dequantisation does not panic"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RowOrder;
    use tch::Device;

    #[test]
    fn numbers_are_rounded_as_libtorch_rounds() {
        let values: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let part = |bytes| StoredRows {
            ggml_type: 0,
            bytes,
            rows: 3,
            columns: 4,
            order: RowOrder::Stored,
            plus: 0.0,
        };
        let (first, second) = bytes.split_at(48);
        let expected = Tensor::from_slice(&values);
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half] {
            let target = Tensor::zeros([24], (kind, Device::Cpu));
            fill(&[part(first), part(second)], &target).unwrap();
            assert!(target.equal(&expected.to_kind(kind)), "{kind:?}");
        }
    }
}
