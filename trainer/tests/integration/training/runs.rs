//! Whole runs: what they give back, and that they repeat.

use jola_edit::gguf::Metadata;
use jola_edit::{EditSet, Output, Sidecar};
use jola_trainer::method::{
    export, lora_file, ClosedShares, Edits, Init, Method, Parameters, Provenance, Sparsity,
};
use jola_trainer::model::{Model, Precision, Sequence};
use jola_trainer::train::{Outcome, Rate, Recipe, Settings, Trainer};
use jola_trainer::Error;
use tch::{no_grad, Device, Kind, Tensor};

use super::support::{assert_learned, model, questions, rows, Silent};

pub const SETTINGS: Settings = Settings {
    recomputed: 0,
    method: Method::Jola,
    sparsity: Sparsity::Target(ClosedShares::both(0.75)),
    steps: 60,
    batch_size: 4,
    // What a random model says is not worth more.
    kl: 0.02,
    lr: Rate::Fixed(0.05),
    gate_lr: None,
    patience: 0,
    seed: 1,
    recipe: Recipe::DEFAULT,
};

pub fn run(
    model: &Model,
    settings: &Settings,
) -> Result<(Parameters, Outcome, Vec<String>), Error> {
    run_on(model, settings, rows)
}

/// A run on rows that `rows` makes, given their number and a seed.
pub fn run_on(
    model: &Model,
    settings: &Settings,
    rows: fn(usize, u64) -> Vec<Sequence>,
) -> Result<(Parameters, Outcome, Vec<String>), Error> {
    let (train, valid) = (rows(24, 1), rows(8, 2));
    let mut observer = Silent::default();
    let trainer = Trainer::new(model, settings, &train, &valid)?;
    let (trained, outcome) = trainer.run(&mut observer)?;
    Ok((trained, outcome, observer.lines))
}

/// A run of a method that edits heads.
pub fn train(model: &Model, settings: &Settings) -> Result<(Edits, Outcome, Vec<String>), Error> {
    let (trained, outcome, lines) = run(model, settings)?;
    Ok((edits(trained), outcome, lines))
}

/// The edits of a run of a method that edits heads.
pub fn edits(trained: Parameters) -> Edits {
    match trained {
        Parameters::Edits(edits) => edits,
        Parameters::Lora(_) => panic!("no edits"),
    }
}

/// The bytes of the file that is written of a result.
pub fn bytes(model: &Model, trained: &Parameters) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    match trained {
        Parameters::Edits(edits) => sidecar(model, edits).write(&path).unwrap(),
        Parameters::Lora(lora) => {
            let output = Output::without_inputs(&path).unwrap();
            lora_file::write(lora, "llama", &provenance(), &output).unwrap();
        }
    }
    std::fs::read(path).unwrap()
}

pub fn sidecar(model: &Model, edits: &Edits) -> Sidecar {
    let shape = jola_edit::BaseShape {
        architecture: "llama".to_owned(),
        block_count: model.config.n_layer as u32,
        head_count: vec![model.config.n_head as u32; model.config.n_layer],
        head_dim: model.config.head_dim as u32,
    };
    export::to_sidecar(edits, &shape, provenance())
}

fn provenance() -> Provenance {
    Provenance {
        name: "test".to_owned(),
        base_model_name: "tiny".to_owned(),
        base_sha256: None,
        train: Metadata::new(),
    }
}

/// The file that a run writes.
fn file(settings: &Settings) -> Vec<u8> {
    let model = model(Precision::F32);
    let (trained, ..) = run(&model, settings).unwrap();
    bytes(&model, &trained)
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let other = Settings {
        seed: 2,
        ..SETTINGS
    };
    assert_eq!(file(&SETTINGS), file(&SETTINGS));
    assert_ne!(file(&SETTINGS), file(&other));
}

#[test]
fn a_run_learns_and_closes_the_share_that_was_asked_for() {
    let model = model(Precision::F32);
    let (trained, outcome, lines) = run_on(&model, &SETTINGS, questions).unwrap();
    let edits = edits(trained);
    assert_learned(&outcome);
    assert_eq!((edits.n_gates(), edits.n_open()), (16, 4));
    assert!(
        lines.iter().any(|line| line == "gates fixed: 4 of 16 open"),
        "{lines:?}"
    );
    let stats = sidecar(&model, &edits).stats();
    assert_eq!(stats.open_mul + stats.open_add, 4);
}

#[test]
fn each_method_trains_its_halves() {
    let model = model(Precision::F32);
    let stats = |method, sparsity| {
        let settings = Settings {
            method,
            sparsity,
            steps: 12,
            ..SETTINGS
        };
        let (edits, ..) = train(&model, &settings).unwrap();
        let stats = sidecar(&model, &edits).stats();
        (stats.open_mul, stats.open_add)
    };
    let target = |scale, offset| Sparsity::Target(ClosedShares { scale, offset });
    assert_eq!(stats(Method::Ungated, target(0.75, 0.75)), (8, 8));
    assert_eq!(stats(Method::Additive, target(0.5, 0.75)), (0, 2));
    assert_eq!(stats(Method::Multiplicative, target(0.5, 0.75)), (4, 0));
    assert_eq!(stats(Method::Jola, target(0.75, 0.5)), (2, 4));
    assert_eq!(stats(Method::SharedGate, target(0.75, 0.5)), (2, 2));
    let (scales, offsets) = stats(Method::Jola, Sparsity::Lambda(1e-9));
    assert!(scales + offsets > 8, "{scales} {offsets}");
    assert_eq!(stats(Method::Jola, Sparsity::Lambda(1e3)), (0, 0));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_step() {
    let model = model(Precision::F32);
    let settings = Settings {
        lr: Rate::Fixed(1e39),
        ..SETTINGS
    };
    match train(&model, &settings) {
        Err(Error::Diverged { step, loss }) => assert!(step >= 2 && !loss.is_finite()),
        other => panic!("{:?}", other.map(|(_, outcome, _)| outcome)),
    }
}

#[test]
fn the_sidecar_holds_the_open_gates_times_their_vectors() {
    let head_rms = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).view([2, 4]);
    let init = Init {
        vector_std: 1.0,
        log_alpha: -3.0,
        ..Init::DEFAULT
    };
    let mut edits = Edits::new(Method::Jola, 16, &head_rms, init, 1);
    // Scale: layer 0, head 2, fully open. Offset: layer 1, head 3, half open.
    let open = |tensor: &Tensor, layer, head, value: f64| {
        let _ = no_grad(|| tensor.get(layer).get(head).fill_(value));
    };
    open(&edits.halves[0].log_alpha, 0, 2, 3.0);
    open(&edits.halves[1].log_alpha, 1, 3, 0.0);
    let model = model(Precision::F32);
    let sidecar = sidecar(&model, &edits);
    assert_eq!(sidecar.layers.keys().copied().collect::<Vec<_>>(), [0, 1]);
    let (scale, offset) = (&sidecar.layers[&0], &sidecar.layers[&1]);
    assert!(scale.add.is_none() && offset.mul.is_none());
    let (scale, offset) = (scale.mul.as_ref().unwrap(), offset.add.as_ref().unwrap());
    assert_eq!(
        (scale.heads.as_slice(), offset.heads.as_slice()),
        (&[2][..], &[3][..])
    );
    let vector = |half: usize, layer: i64, head: i64| {
        Vec::<f32>::try_from(edits.halves[half].vectors.detach().get(layer).get(head)).unwrap()
    };
    assert_eq!(scale.values, vector(0, 0, 2));
    for (ours, vector) in offset.values.iter().zip(vector(1, 1, 3)) {
        assert!((ours - 0.5 * 8.0 * vector).abs() < 1e-5, "{ours} {vector}");
    }

    // What inference composes from the file is what training applied.
    let set = EditSet::compose(&[(&sidecar, 1.0)]).unwrap();
    let composed = export::from_edit_set(&set, 2, Kind::Float, Device::Cpu);
    let trained = edits.layer_changes(&edits.fixed_gates());
    for (composed, trained) in composed.iter().zip(&trained) {
        for (a, b) in [
            (&composed.heads.factor, &trained.heads.factor),
            (&composed.heads.offset, &trained.heads.offset),
        ] {
            match (a, b) {
                (Some(a), Some(b)) => assert!(a.allclose(b, 1e-6, 1e-6, false)),
                (None, None) => {}
                _ => panic!("one of them edits, the other does not"),
            }
        }
    }
    for half in &mut edits.halves {
        let _ = no_grad(|| half.log_alpha.fill_(-9.0));
    }
    assert!(self::sidecar(&model, &edits).layers.is_empty());
}

/// The host waits for the device when losses are looked at, after 16 steps or at the end of a
/// phase, and reads losses, λ and gates then, each at once. It never waits within a step.
#[test]
fn no_step_waits_for_the_device() {
    let model = model(Precision::F32);
    let rows = rows(24, 1);
    let readings = |steps: usize| {
        let settings = Settings { steps, ..SETTINGS };
        let trainer = Trainer::new(&model, &settings, &rows, &[]).unwrap();
        let before = jola_trainer::readings();
        trainer.run(&mut Silent::default()).unwrap();
        jola_trainer::readings() - before
    };
    let (few, many) = (readings(160), readings(320));
    // λ is there only while gates close.
    let looks = 160 / 16;
    let found = many - few;
    assert!((2 * looks..=3 * looks).contains(&found), "{found} readings");
}
