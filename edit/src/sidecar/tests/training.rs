//! What a sidecar says about its training, and when its use is doubted.

use super::example;
use crate::gguf::{self, Gguf, GgufWriter, Metadata, Value};
use crate::sidecar::{text_sha256, BaseWeights, Doubt, RowFormat, Sidecar, Training};

/// A model of one norm and one matrix; `norm` and `matrix` are their last numbers.
fn model(norm: f32, matrix: f32, reversed: bool) -> BaseWeights {
    let mut tensors = vec![
        ("blk.0.attn_norm.weight", vec![1.0f32, norm]),
        ("blk.0.attn_q.weight", {
            let mut values = vec![0.5; 1024];
            values[1023] = matrix;
            values
        }),
    ];
    if reversed {
        tensors.reverse();
    }
    let mut writer = GgufWriter::new(Metadata::new()).unwrap();
    for (name, values) in tensors {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        writer
            .add_tensor(name, gguf::F32, &[values.len() as u64], bytes)
            .unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    let len = bytes.len() as u64;
    let gguf = Gguf::parse(bytes).unwrap();
    BaseWeights {
        bytes: Some(len),
        ..BaseWeights::of_tensors(gguf.iter())
    }
}

/// A sidecar that says this of its training.
fn trained(training: &Training) -> Sidecar {
    let mut sidecar = example();
    training.note(&mut sidecar.train).unwrap();
    sidecar
}

fn trained_on(base: &BaseWeights) -> Sidecar {
    trained(&Training {
        base: base.clone(),
        ..Training::default()
    })
}

#[test]
fn what_is_noted_is_read_again() {
    let training = Training {
        format: Some(RowFormat::Mixed),
        template_sha256: Some(text_sha256("{{ messages }}")),
        turns: Some("last".into()),
        base: model(2.0, 3.0, false),
    };
    let sidecar = trained(&training);
    let again = super::from_bytes(super::to_bytes(&sidecar)).unwrap();
    assert_eq!(again.training(), training);
    assert!(again.warnings.is_empty(), "{:?}", again.warnings);
}

#[test]
fn a_sidecar_without_notes_is_never_doubted() {
    let sidecar = example();
    assert_eq!(sidecar.training(), Training::default());
    assert_eq!(sidecar.doubt_base(&model(1.0, 1.0, false)), None);
    assert_eq!(sidecar.doubt_prompt(None), None);
    assert_eq!(sidecar.doubt_prompt(Some("x")), None);
    assert_eq!(sidecar.training().describe(), None);
}

/// What a later version may write is as good as absent.
#[test]
fn notes_of_other_kinds_are_taken_for_absent() {
    let mut sidecar = example();
    for (key, value) in [
        ("format", Value::from("tables")),
        ("template_sha256", Value::from(7u32)),
        ("base_bytes", Value::from("many")),
    ] {
        sidecar.train.insert(key, value).unwrap();
    }
    assert_eq!(sidecar.training(), Training::default());
}

#[test]
fn the_same_weights_are_known_in_any_order_and_file() {
    let base = model(2.0, 3.0, false);
    let mut other_metadata = model(2.0, 3.0, true);
    other_metadata.bytes = Some(1);
    assert_eq!(trained_on(&base).doubt_base(&other_metadata), None);
}

#[test]
fn a_fine_tune_of_the_same_size_is_noticed_by_any_of_its_weights() {
    let sidecar = trained_on(&model(2.0, 3.0, false));
    for other in [model(2.5, 3.0, false), model(2.0, 3.5, false)] {
        assert_eq!(sidecar.doubt_base(&other), Some(Doubt::OtherWeights));
    }
}

/// It has other bytes, another size, and the same norms.
#[test]
fn another_quantisation_is_told_from_another_model() {
    let base = model(2.0, 3.0, false);
    let sidecar = trained_on(&base);
    let stored_otherwise = |norm| BaseWeights {
        bytes: Some(99),
        ..model(norm, 3.5, false)
    };
    assert_eq!(
        sidecar.doubt_base(&stored_otherwise(2.0)),
        Some(Doubt::OtherFile {
            trained_on: base.bytes.unwrap(),
            found: 99
        })
    );
    assert_eq!(
        sidecar.doubt_base(&stored_otherwise(2.5)),
        Some(Doubt::OtherWeights)
    );
}

/// Trained on a Hugging Face directory: no file whose bytes could be compared.
#[test]
fn norms_alone_tell_models_apart_and_doubt_no_quantisation() {
    let base = model(2.0, 3.0, false);
    let sidecar = trained_on(&BaseWeights {
        norms_sha256: base.norms_sha256.clone(),
        ..BaseWeights::default()
    });
    assert_eq!(sidecar.doubt_base(&model(2.0, 7.0, false)), None);
    assert_eq!(
        sidecar.doubt_base(&model(2.5, 3.0, false)),
        Some(Doubt::OtherWeights)
    );
}

#[test]
fn norms_that_are_not_f32_are_not_compared() {
    let mut writer = GgufWriter::new(Metadata::new()).unwrap();
    writer
        .add_tensor("output_norm.weight", gguf::F16, &[2], vec![0; 4])
        .unwrap();
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    let weights = BaseWeights::of_tensors(Gguf::parse(bytes).unwrap().iter());
    assert_eq!(weights.norms_sha256, None);
    assert!(weights.sample_sha256.is_some());
}

/// The digests as `docs/reference/sidecar-format.md` describes them, made by hand.
#[test]
fn digests_are_those_of_the_documented_bytes() {
    use sha2::{Digest, Sha256};
    let weights = model(2.0, 3.0, true);
    let floats = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let norm = floats(&[1.0, 2.0]);
    let first = floats(&[0.5; 64]);
    let mut last = floats(&[0.5; 63]);
    last.extend(floats(&[3.0]));
    let mut sample = Vec::new();
    sample.extend(b"blk.0.attn_norm.weight\0");
    sample.extend([0, 0, 0, 0]); // F32
    sample.extend([8, 0, 0, 0, 0, 0, 0, 0]);
    sample.extend([norm.clone(), norm.clone()].concat());
    sample.extend(b"blk.0.attn_q.weight\0");
    sample.extend([0, 0, 0, 0]);
    sample.extend([0, 16, 0, 0, 0, 0, 0, 0]);
    sample.extend([first, last].concat());
    let hexadecimal = |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes));
    assert_eq!(weights.sample_sha256, Some(hexadecimal(&sample)));
    let norms = [&b"blk.0.attn_norm.weight\0"[..], &norm].concat();
    assert_eq!(weights.norms_sha256, Some(hexadecimal(&norms)));
}

#[test]
fn prompts_of_another_kind_are_doubted() {
    let of = |format, template: Option<&str>| {
        trained(&Training {
            format: Some(format),
            template_sha256: template.map(str::to_owned),
            turns: template.map(|_| "all".to_owned()),
            ..Training::default()
        })
    };
    let chat = of(RowFormat::Chat, Some("a"));
    assert_eq!(chat.doubt_prompt(None), Some(Doubt::PlainPrompt));
    assert_eq!(chat.doubt_prompt(Some("a")), None);
    assert_eq!(chat.doubt_prompt(Some("b")), Some(Doubt::OtherTemplate));
    let plain = of(RowFormat::Plain, None);
    assert_eq!(plain.doubt_prompt(None), None);
    assert_eq!(plain.doubt_prompt(Some("a")), Some(Doubt::ChatPrompt));
    let mixed = of(RowFormat::Mixed, Some("a"));
    assert_eq!(mixed.doubt_prompt(None), None);
    assert_eq!(mixed.doubt_prompt(Some("b")), Some(Doubt::OtherTemplate));
    let described = chat.training().describe().unwrap();
    assert!(
        described.contains("chat template, all turns"),
        "{described}"
    );
}
