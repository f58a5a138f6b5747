//! What sets single methods apart: shared gates, LoFiT's choice, chosen layers, LoRA.

use jola_trainer::data::CachedRows;
use jola_trainer::method::{lora_file, Edits, Init, Lora, LoraConfig, Method, Sparsity};
use jola_trainer::model::{Batch, FeedForward, LayerChange, Model, Precision, Sequence, Weight};
use jola_trainer::train::{
    cross_entropy, evaluate, Observer, Phase, Rate, Recipe, Settings, StepRecord, Trainer,
    ValidationRecord, PAPER_LAMBDA, PAPER_LR,
};
use jola_trainer::Error;
use tch::{no_grad, Device, Kind, Tensor};

use super::runs::{bytes, edits, run, run_on, sidecar, train, SETTINGS};
use super::support::{assert_learned, model, questions, rows};

fn settings(method: Method) -> Settings {
    Settings { method, ..SETTINGS }
}

#[test]
fn a_shared_gate_opens_both_halves_of_a_head_or_none() {
    let model = model(Precision::F32);
    let (edits, ..) = train(&model, &settings(Method::SharedGate)).unwrap();
    assert_eq!((edits.n_gates(), edits.n_open()), (8, 2));
    let layers = sidecar(&model, &edits).layers;
    let heads: Vec<(u32, &[u32], &[u32])> = layers
        .iter()
        .map(|(layer, edit)| {
            let (scales, offsets) = (edit.mul.as_ref().unwrap(), edit.add.as_ref().unwrap());
            (*layer, &scales.heads[..], &offsets.heads[..])
        })
        .collect();
    assert!(heads.iter().all(|(_, scales, offsets)| scales == offsets));
    assert_eq!(heads.iter().map(|(_, s, _)| s.len()).sum::<usize>(), 2);
}

#[test]
fn both_halves_read_one_shared_gate() {
    let head_rms = Tensor::ones([2, 4], (Kind::Double, Device::Cpu));
    let init = Init {
        vector_std: 1.0,
        log_alpha: 0.0,
        ..Init::DEFAULT
    };
    let edits = Edits::new(Method::SharedGate, 16, &head_rms, init, 1);
    let gates = edits.sample_gates(1, 2);
    assert!(gates[0].values.equal(&gates[1].values));
    let sum = |half: usize| edits.halves[half].product(&gates[half]).sum(Kind::Double);
    (sum(0) + sum(1)).backward();
    // One gate: its gradient is the sum over both halves.
    let [log_alpha] = edits.log_alphas()[..] else {
        panic!("one tensor of gates");
    };
    let both = log_alpha.grad().copy();
    log_alpha.shallow_clone().zero_grad();
    edits.halves[0]
        .product(&edits.sample_gates(1, 2)[0])
        .sum(Kind::Double)
        .backward();
    let scales = log_alpha.grad().copy();
    edits.halves[1]
        .product(&edits.sample_gates(1, 2)[1])
        .sum(Kind::Double)
        .backward();
    assert!(log_alpha.grad().allclose(&both, 1e-12, 1e-12, false));
    assert!(!scales.allclose(&both, 1e-3, 1e-3, false));
}

#[test]
fn lofit_edits_the_heads_with_the_largest_scales_by_offsets_alone() {
    let head_rms = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
    let init = Init {
        vector_std: 1e-3,
        log_alpha: 0.0,
        ..Init::DEFAULT
    };
    let method = Method::Lofit { heads: 2, l1: 1e-3 };
    let mut edits = Edits::new(method, 16, &head_rms, init, 1);
    let first_stage = edits.final_changes();
    assert!(first_stage
        .iter()
        .all(|edit| edit.heads.factor.is_some() && edit.heads.offset.is_none()));
    no_grad(|| {
        for (layer, head, value) in [(1, 3, -0.5), (0, 1, 0.25), (1, 0, 0.125)] {
            let _ = edits.halves[0].vectors.get(layer).get(head).fill_(value);
        }
    });
    edits.choose_by_scale(2);
    edits.fix();
    let layers = sidecar(&model(Precision::F32), &edits).layers;
    assert!(layers.values().all(|edit| edit.mul.is_none()));
    let heads = |layer: u32| layers[&layer].add.as_ref().unwrap().heads.clone();
    assert_eq!((heads(0), heads(1)), (vec![1], vec![3]));
}

/// Rows that end at once: an offset is the same at every place, so this is what offsets alone
/// can learn.
fn one_token(n: usize, seed: u64) -> Vec<Sequence> {
    let rows = rows(n, seed).into_iter();
    let row = |row: Sequence| {
        let prompt = &row.tokens[..row.n_prompt()];
        Sequence::new([prompt, &[2]].concat(), row.n_prompt())
    };
    rows.map(row).collect()
}

/// The L1 penalty moves scales that the task does not need towards zero.
#[test]
fn lofit_trains_scales_then_offsets() {
    let model = model(Precision::F32);
    let lofit = |l1| Settings {
        steps: 200,
        ..settings(Method::Lofit { heads: 3, l1 })
    };
    let (trained, outcome, lines) = run_on(&model, &lofit(1e-3), one_token).unwrap();
    let chosen = edits(trained);
    let validation = outcome.validation().unwrap();
    assert_eq!(validation.exact, 1.0, "{validation:?}");
    assert!(
        lines
            .iter()
            .any(|line| line == "chose 3 heads by their scales"),
        "{lines:?}"
    );
    let stats = sidecar(&model, &chosen).stats();
    assert_eq!((stats.open_mul, stats.open_add), (0, 3));
    let scales = |edits: &Edits| {
        let scales = edits.halves[0].vectors.detach().abs();
        scales.sum(Kind::Double).double_value(&[])
    };
    let (strong, ..) = run_on(&model, &lofit(10.0), one_token).unwrap();
    assert!(scales(&edits(strong)) < 0.5 * scales(&chosen));
}

#[test]
fn layerwise_edits_every_head_of_its_layers_and_no_other() {
    let model = model(Precision::F32);
    let (edits, ..) = train(&model, &settings(Method::Layerwise { layers: vec![1] })).unwrap();
    let layers = sidecar(&model, &edits).layers;
    assert_eq!(layers.keys().copied().collect::<Vec<_>>(), [1]);
    assert!(layers[&1].mul.is_none());
    assert_eq!(layers[&1].add.as_ref().unwrap().heads, [0, 1, 2, 3]);
}

fn every_target() -> LoraConfig {
    let targets = [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    LoraConfig {
        rank: 2,
        alpha: 4.0,
        targets: targets.map(str::to_owned).to_vec(),
    }
}

/// A LoRA whose every factor is random.
fn random_lora(model: &Model) -> Lora {
    let lora = Lora::new(every_target(), model, 3).unwrap();
    tch::manual_seed(5);
    no_grad(|| {
        for target in &lora.targets {
            let noise = target.b.randn_like() * 0.3;
            target.b.shallow_clone().copy_(&noise);
        }
    });
    lora
}

#[test]
fn lora_learns_and_its_file_says_the_same() {
    let model = model(Precision::F32);
    let lora = Settings {
        lr: Rate::Fixed(1e-2),
        ..settings(Method::Lora(every_target()))
    };
    let (trained, outcome, _) = run_on(&model, &lora, questions).unwrap();
    assert_learned(&outcome);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.gguf");
    std::fs::write(&path, bytes(&model, &trained)).unwrap();
    let batch = Batch::pack(&rows(3, 1), Device::Cpu);
    let logits = |edits: &[LayerChange]| no_grad(|| model.forward(&batch, edits));
    let mut read = LayerChange::none(2);
    lora_file::add_to(&mut read, &path, 1.0, &model, "llama").unwrap();
    let (found, expected) = (logits(&read), logits(&trained.final_changes()));
    assert!(found.equal(&expected));
    let mut twice = LayerChange::none(2);
    for _ in 0..2 {
        lora_file::add_to(&mut twice, &path, 0.5, &model, "llama").unwrap();
    }
    assert!(logits(&twice).allclose(&expected, 1e-4, 1e-4, false));

    match lora_file::add_to(&mut read, &path, 1.0, &model, "qwen2") {
        Err(Error::LoraFile { reason, .. }) => assert!(reason.contains("qwen2"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Every target reaches the matrix that it names: the model with low-rank changes computes
/// what the model with merged weights does.
#[test]
fn lora_equals_merged_weights() {
    let mut model = model(Precision::F64);
    let lora = random_lora(&model);
    let batch = Batch::pack(&rows(3, 1), Device::Cpu);
    let adapted = no_grad(|| model.forward(&batch, &lora.layer_changes()));
    let plain = no_grad(|| model.forward(&batch, &LayerChange::none(2)));
    assert!(!adapted.allclose(&plain, 1e-2, 1e-2, false));
    for (l, layer) in model.layers.iter_mut().enumerate() {
        let delta = |name: &str| {
            let target = lora.targets.iter().find(|target| target.name == name);
            let target = target.unwrap();
            let (a, b) = (target.a.get(l as i64), target.b.get(l as i64));
            b.matmul(&a).detach() * 2.0
        };
        let add = |weight: &mut Weight, delta: Tensor| *weight = (weight.dense() + delta).into();
        let joined = |names: &[&str]| {
            let deltas: Vec<Tensor> = names.iter().map(|name| delta(name)).collect();
            Tensor::cat(&deltas, 0)
        };
        add(
            &mut layer.attn_qkv.weight,
            joined(&["attn_q", "attn_k", "attn_v"]),
        );
        add(&mut layer.attn_output.weight, delta("attn_output"));
        match &mut layer.ffn {
            FeedForward::Dense { gate_up, down } => {
                add(&mut gate_up.weight, joined(&["ffn_gate", "ffn_up"]));
                add(&mut down.weight, delta("ffn_down"));
            }
            _ => panic!("a dense model"),
        }
    }
    let merged = no_grad(|| model.forward(&batch, &LayerChange::none(2)));
    assert!(merged.allclose(&adapted, 1e-10, 1e-10, false));
}

#[test]
fn lora_gradients_match_central_differences() {
    const STEP: f64 = 1e-5;
    let model = model(Precision::F64);
    let batch = Batch::pack(&rows(3, 1), Device::Cpu);
    let lora = random_lora(&model);
    let loss = || cross_entropy(&model, &batch, &lora.layer_changes());
    loss().backward();
    for target in &lora.targets {
        for tensor in [&target.a, &target.b] {
            let gradient = Vec::<f64>::try_from(tensor.grad().flatten(0, -1)).unwrap();
            for index in (0..gradient.len()).step_by(37) {
                let at = |delta: f64| {
                    no_grad(|| {
                        let mut number = tensor.view(-1).get(index as i64);
                        number += delta;
                        loss().double_value(&[])
                    })
                };
                let (above, below) = (at(STEP), at(-2.0 * STEP));
                at(STEP);
                let difference = (above - below) / (2.0 * STEP);
                let error = (gradient[index] - difference).abs();
                assert!(
                    error < 1e-8 + 1e-5 * difference.abs(),
                    "{}: {} {difference}",
                    target.name,
                    gradient[index]
                );
            }
        }
    }
}

#[test]
fn a_target_that_the_base_lacks_is_named() {
    let config = LoraConfig {
        targets: vec!["attn_v".to_owned(), "attn_qv".to_owned()],
        ..every_target()
    };
    let error = run(&model(Precision::F32), &settings(Method::Lora(config))).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("`attn_qv`") && text.contains("attn_q, attn_k, attn_v"),
        "{text}"
    );
}

/// The published schedule: gates and vectors at one rate from the first step, λ falling,
/// validation in every epoch. It ends with the best epoch's gates at their deterministic value.
#[test]
fn the_papers_recipe_follows_its_schedule() {
    let model = model(Precision::F32);
    let paper = Settings {
        sparsity: Sparsity::Lambda(PAPER_LAMBDA),
        lr: Rate::Fixed(PAPER_LR),
        recipe: Recipe::paper(60, 10, 4),
        ..SETTINGS
    };
    let (train, valid) = (rows(24, 1), rows(8, 2));
    let trainer = Trainer::new(&model, &paper, &train, &valid).unwrap();
    let mut watched = Watched::default();
    let (trained, outcome) = trainer.run(&mut watched).unwrap();
    let steps = watched.0;
    assert_eq!((steps.len(), watched.1.len()), (60, 10));
    assert_eq!(watched.1, [6, 12, 18, 24, 30, 36, 42, 48, 54, 60]);
    for (t, record) in steps.iter().enumerate() {
        assert_eq!(record.phase, Phase::Prune);
        assert_eq!(record.gate_lr, record.lr);
        let lambda = 0.1 * (-0.01 * t as f64).exp();
        assert!((record.lambda - lambda).abs() < 1e-6, "{record:?}");
    }
    assert!((steps[49].lr - PAPER_LR).abs() < 1e-12 && steps[0].lr < 0.03 * PAPER_LR);
    assert!(steps[59].lr < 0.1 * PAPER_LR);
    // What was validated is what is returned.
    let Some(edits) = trained.edits() else {
        panic!("edits")
    };
    let best = outcome.validation().unwrap();
    let (found, _) = evaluate(&model, &trained.final_changes(), &CachedRows::new(&valid));
    assert!((found.loss - best.loss).abs() < 1e-9);
    let values = |t: &Tensor| Vec::<f64>::try_from(t.to_kind(Kind::Double).flatten(0, -1)).unwrap();
    let bound = (6f64 / 5.0).sqrt() + 60.0 * PAPER_LR;
    for log_alpha in edits.log_alphas() {
        let values = values(log_alpha);
        assert!(values.iter().all(|v| v.abs() < bound), "{values:?}");
        assert!(values.iter().any(|v| *v > 0.2) && values.iter().any(|v| *v < -0.2));
    }
}

/// What is left after the choice of heads has further to move; where nothing is chosen the
/// rate has one peak.
#[test]
fn the_rate_is_raised_once_gates_have_chosen_heads() {
    let model = model(Precision::F32);
    let (train, valid) = (rows(24, 1), rows(8, 2));
    // A quarter of the gates stays open.
    let raised = 0.05 * 0.25f64.powf(-0.75);
    for (method, peaks) in [(Method::Jola, [0.05, raised]), (Method::Ungated, [0.05; 2])] {
        let settings = settings(method);
        let plan = settings.plan();
        let mut watched = Watched::default();
        let trainer = Trainer::new(&model, &settings, &train, &valid).unwrap();
        trainer.run(&mut watched).unwrap();
        let rates: Vec<f64> = watched.0.iter().map(|record| record.lr).collect();
        let (before, after) = rates.split_at(plan.choice(0));
        let highest = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        assert!(
            before.is_empty() || highest(before) == peaks[0],
            "{before:?}"
        );
        assert_eq!(highest(after), peaks[1], "{after:?}");
        assert!(after[after.len() - 1] < 0.1 * peaks[1], "{after:?}");
    }
}

/// Step records, and the steps that were validated.
#[derive(Default)]
struct Watched(Vec<StepRecord>, Vec<usize>);

impl Observer for Watched {
    fn steps(&mut self, records: &[StepRecord]) {
        self.0.extend_from_slice(records);
    }

    fn validated(&mut self, record: &ValidationRecord) {
        self.1.push(record.step);
    }
}
