//! Edits as weights against the live edit.

use std::path::{Path, PathBuf};

use jola_edit::gguf::{Array, Gguf, GgufWriter, Metadata, Value};
use jola_edit::{LayerEdit, Sidecar};
use serde_json::Value as Json;

use crate::base::f32_base;
use testkit::{base_model, llama_jola_on, sidecars, split, text, Folder};

/// Bakes `edit` into `model`; the report.
fn bake(model: &Path, edit: &Path, out: &Path, more: &[&str]) -> Json {
    let done = llama_jola_on("bake", model)
        .args(["--json", "--jola", text(edit), "-o", text(out)])
        .args(more.iter().copied())
        .succeed();
    done.json()
}

/// Checks that everything but the changed tensors is the base's, byte for byte; the names of
/// the others in their order.
fn changed(base: &Path, out: &Path) -> Vec<String> {
    let (base, out) = (Gguf::open(base).unwrap(), Gguf::open(out).unwrap());
    let split = |key: &&str| key.starts_with("split.");
    let kept = |file: &Gguf| {
        let entries = file.metadata().iter().filter(|(key, _)| !split(key));
        let entries = entries.filter(|(key, _)| !key.starts_with("jola.baked."));
        entries
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(&base), kept(&out));
    let mut names = Vec::new();
    let mut rest = base.iter();
    for tensor in out.iter() {
        let name = &tensor.info.name;
        if base.tensor(name).is_none() {
            names.push(name.clone());
            continue;
        }
        let before = rest.next().unwrap();
        assert_eq!(
            (name, &tensor.info.dims),
            (&before.info.name, &before.info.dims)
        );
        if (tensor.info.ty, tensor.bytes) != (before.info.ty, before.bytes) {
            names.push(name.clone());
        }
    }
    assert!(rest.next().is_none());
    names
}

const CHANGED: [&str; 6] = [
    "blk.0.attn_output.weight",
    "blk.0.attn_output.bias",
    "blk.11.attn_output.weight",
    "blk.17.attn_output.bias",
    "blk.29.attn_output.weight",
    "blk.29.attn_output.bias",
];

#[test]
fn in_floats_it_is_the_live_edit() {
    let folder = Folder::new();
    let (model, out) = (f32_base(), folder.path("baked.gguf"));
    let report = bake(model, &sidecars::golden(), &out, &["--outtype", "f32"]);
    assert_eq!(changed(model, &out), CHANGED);
    let distance = report["as_run"]["distance"].as_f64().unwrap();
    assert!(distance < 1e-4, "{report}");
    assert_eq!(report["as_run"]["same_top"], report["as_run"]["tokens"]);
    let baked = Gguf::open(&out).unwrap();
    let names = baked.metadata().get("jola.baked.names");
    assert_eq!(
        names,
        Some(&Value::Array(Array::String(vec!["golden edit".into()])))
    );
    assert_eq!(folder.names(), ["baked.gguf"]);
}

#[test]
fn a_quantised_base_gets_the_smallest_type_that_is_close() {
    let folder = Folder::new();
    let (model, out) = (base_model(), folder.path("baked.gguf"));
    let report = bake(&model, &sidecars::golden(), &out, &[]);
    assert_eq!(changed(&model, &out), CHANGED);
    assert!(
        report["weights_only"]["mean_kl"].as_f64().unwrap() < 1e-3,
        "{report}"
    );
    for smaller in report["rejected"].as_array().unwrap() {
        assert!(
            smaller["kl"]["mean_kl"].as_f64().unwrap() > 1e-3,
            "{report}"
        );
    }
    // The noise of kernels that round activations, see docs/bake.md.
    assert!(
        report["as_run"]["mean_kl"].as_f64().unwrap() < 0.05,
        "{report}"
    );
    // The same bytes from the same model in two files, and the type asked for.
    let shards = split(&model, folder.root(), "split", 2);
    let again = folder.path("again.gguf");
    let to = report["changed"][0]["to"].as_str().unwrap();
    let outtype = if to == "q8_0" { to } else { "keep" };
    let report = bake(
        &shards[0],
        &sidecars::golden(),
        &again,
        &["--outtype", outtype],
    );
    assert_eq!(report["base_files"], 2);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap());
}

/// SmolLM2 under the name of an architecture whose attention has no bias: smollm3 has the same
/// tensors.
fn without_bias(folder: &Folder) -> PathBuf {
    let model = Gguf::open(base_model()).unwrap();
    let mut metadata = Metadata::new();
    for (key, value) in model.metadata().iter() {
        let value = match key {
            "general.architecture" => Value::from("smollm3"),
            _ => value.clone(),
        };
        metadata
            .insert(key.replace("llama.", "smollm3."), value)
            .unwrap();
    }
    let mut writer = GgufWriter::new(metadata).unwrap();
    for tensor in model.iter() {
        let info = tensor.info;
        writer
            .add_tensor(info.name.as_str(), info.ty, &info.dims, tensor.bytes)
            .unwrap();
    }
    let path = folder.path("smollm3.gguf");
    writer.write(&path).unwrap();
    path
}

#[test]
fn without_a_bias_scales_are_baked_and_offsets_refused() {
    let folder = Folder::new();
    let (model, out) = (without_bias(&folder), folder.path("baked.gguf"));
    let mut sidecar = Sidecar::read(sidecars::golden()).unwrap();
    sidecar.architecture = "smollm3".into();
    let edit = folder.path("edit.gguf");
    sidecar.write(&edit).unwrap();
    let refused = llama_jola_on("bake", &model).args(["--jola", text(&edit), "-o", text(&out)]);
    refused.fail(
        1,
        &[
            "the offsets of layers [0, 17, 29] cannot be baked",
            "`smollm3`",
            "no attn_output.bias",
        ],
    );
    assert!(!out.exists());

    for layer in sidecar.layers.values_mut() {
        layer.add = None;
    }
    sidecar
        .layers
        .retain(|_, layer| *layer != LayerEdit::default());
    sidecar.write(&edit).unwrap();
    let report = bake(&model, &edit, &out, &["--outtype", "q8_0"]);
    assert_eq!(changed(&model, &out), [CHANGED[0], CHANGED[2], CHANGED[4]]);
    assert!(
        report["as_run"]["mean_kl"].as_f64().unwrap() < 0.05,
        "{report}"
    );
}

#[test]
fn nothing_is_written_where_nothing_can_be() {
    let folder = Folder::new();
    let (model, golden) = (base_model(), sidecars::golden());
    let (out, empty) = (folder.path("baked.gguf"), folder.path("empty.gguf"));
    sidecars::empty().write(&empty).unwrap();
    let bake = |edit: &Path, out: &Path| {
        llama_jola_on("bake", &model).args(["--jola", text(edit), "-o", text(out)])
    };
    bake(&empty, &out).fail(1, &["nothing to bake"]);
    bake(&golden, &model).fail(
        1,
        &["is an input of this command: choose another output file"],
    );
    bake(&golden, &folder.path("no/such/folder.gguf"))
        .fail(1, &["cannot write it: there is no folder"]);
    assert_eq!(folder.names(), ["empty.gguf"]);
}
