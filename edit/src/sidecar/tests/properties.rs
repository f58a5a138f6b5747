//! What must hold for any sidecar: a round trip changes nothing, the same sidecar gives the
//! same bytes, damage never makes the reader panic or accept an invalid edit.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::gguf::tests::properties::values;

fn vectors(head_count: u32, head_dim: u32) -> BoxedStrategy<HeadVectors> {
    btree_set(0..head_count, 1..=head_count as usize)
        .prop_flat_map(move |heads| {
            let finite = prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL;
            let len = heads.len() * head_dim as usize;
            let heads: Vec<u32> = heads.into_iter().collect();
            vec(finite, len).prop_map(move |values| HeadVectors {
                heads: heads.clone(),
                values,
            })
        })
        .boxed()
}

fn layer(head_count: u32, head_dim: u32) -> impl Strategy<Value = LayerEdit> {
    let half = || vectors(head_count, head_dim);
    prop_oneof![
        half().prop_map(|mul| (Some(mul), None)),
        half().prop_map(|add| (None, Some(add))),
        (half(), half()).prop_map(|(mul, add)| (Some(mul), Some(add))),
    ]
    .prop_map(|(mul, add)| LayerEdit { mul, add })
}

fn layers(counts: Vec<u32>, head_dim: u32) -> impl Strategy<Value = BTreeMap<u32, LayerEdit>> {
    let layers: Vec<_> = (0..)
        .zip(counts)
        .filter(|&(_, count)| count > 0)
        .map(|(number, count)| {
            let edit = option::of(layer(count, head_dim));
            edit.prop_map(move |edit| edit.map(|edit| (number, edit)))
        })
        .collect();
    layers.prop_map(|layers| layers.into_iter().flatten().collect())
}

fn head_counts() -> impl Strategy<Value = (u32, HeadCount)> {
    let uniform =
        (1u32..5, 1u32..5).prop_map(|(layers, heads)| (layers, HeadCount::Uniform(heads)));
    let per_layer = (vec(0u32..4, 0..4), 1u32..4).prop_map(|(mut counts, last)| {
        counts.push(last);
        (counts.len() as u32, HeadCount::PerLayer(counts))
    });
    prop_oneof![uniform, per_layer]
}

pub(crate) fn sidecars() -> impl Strategy<Value = Sidecar> {
    let texts = (any::<String>(), any::<String>(), "[a-z]{1,6}");
    let digest = option::of("[0-9a-f]{64}");
    let train = btree_map("[a-z.]{1,9}", values(), 0..4);
    (head_counts(), 1u32..4, texts, digest, train).prop_flat_map(
        |((block_count, head_count), head_dim, texts, base_sha256, entries)| {
            let counts = (0..block_count).map(|layer| head_count.at(layer).unwrap());
            layers(counts.collect(), head_dim).prop_map(move |layers| {
                let mut train = Metadata::new();
                for (key, value) in &entries {
                    train.insert(key.clone(), value.clone()).unwrap();
                }
                let (name, base_model_name, method) = texts.clone();
                Sidecar {
                    architecture: "llama".into(),
                    name,
                    base_model_name,
                    block_count,
                    head_count: head_count.clone(),
                    head_dim,
                    method,
                    base_sha256: base_sha256.clone(),
                    train,
                    layers,
                    warnings: vec![],
                }
            })
        },
    )
}

proptest! {
    #[test]
    fn round_trip(sidecar in sidecars()) {
        let bytes = to_bytes(&sidecar);
        prop_assert_eq!(&bytes, &to_bytes(&sidecar));
        let read = from_bytes(bytes).unwrap();
        prop_assert_eq!(&read, &sidecar);
        prop_assert_eq!(read.check_base(&sidecar.base_shape()), Ok(()));
        let stats = read.stats();
        prop_assert!(stats.edited_heads as u64 <= stats.heads);
        prop_assert!(stats.values <= stats.full_values);
    }

    #[test]
    fn damage_never_panics(
        sidecar in sidecars(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in option::of(any::<Index>()),
    ) {
        let mut bytes = to_bytes(&sidecar);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let Ok(gguf) = Gguf::parse(bytes) else {
            return Ok(());
        };
        if let Ok(read) = Sidecar::from_gguf(&gguf) {
            prop_assert!(read.validate().is_ok());
            to_bytes(&read);
        }
    }
}
