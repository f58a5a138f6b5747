//! `llama-jola inspect` of base models.

use jola_edit::gguf::{GgufWriter, Metadata};

use testkit::tiny::forms;
use testkit::{base_model, llama_jola, text, Folder};

#[test]
fn a_model_that_everything_works_with() {
    let model = base_model();
    let found = llama_jola("inspect")
        .args([text(&model), "--load", "--json"])
        .succeed()
        .json();
    assert_eq!(found["architecture"], "llama");
    assert_eq!(
        (&found["layers_total"], &found["head_dim"]),
        (&30.into(), &64.into())
    );
    assert_eq!(found["head_count"].as_array().unwrap().len(), 30);
    assert_eq!(found["parameters"], 134_515_008);
    for what in ["train", "infer", "bake_scales", "bake_offsets"] {
        assert_eq!(found[what]["possible"], true, "{found}");
    }
    let shown = llama_jola("inspect").args([text(&model)]).succeed().stdout;
    for line in [
        "30, 9 heads of width 64",
        "training      yes",
        "inference     yes: llama.cpp builds its attention where the hook sits",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    llama_jola("inspect")
        .args([text(&model), "--plot", "out.svg"])
        .fail(1, &["is a model: --model and --plot are for sidecars"]);
}

/// A model of `architecture` without tensors.
fn model(folder: &Folder, architecture: &str, heads: u32) -> String {
    let mut metadata = Metadata::new();
    metadata
        .insert("general.architecture", architecture)
        .unwrap();
    for (key, value) in [
        ("block_count", 1u32),
        ("embedding_length", 8),
        ("attention.head_count", heads),
    ] {
        metadata
            .insert(format!("{architecture}.{key}"), value)
            .unwrap();
    }
    let path = folder.path(&format!("{architecture}.gguf"));
    GgufWriter::new(metadata).unwrap().write(&path).unwrap();
    text(&path).to_owned()
}

#[test]
fn what_does_not_work_is_said_with_its_reason() {
    let folder = Folder::new();
    let found = |architecture, heads| {
        let model = model(&folder, architecture, heads);
        llama_jola("inspect")
            .args([model.as_str(), "--load", "--json"])
            .succeed()
            .json()
    };
    let why = |found: &serde_json::Value, what: &str| {
        assert_eq!(found[what]["possible"], false, "{found}");
        found[what]["why"].as_str().unwrap().to_owned()
    };
    let path = model(&folder, "nosuch", 2);
    let shown = llama_jola("inspect").args([path]).succeed().stdout;
    assert!(shown.contains("inference     not tried"), "{shown}");
    let unknown = found("nosuch", 2);
    assert!(why(&unknown, "train").contains("llama, qwen2"));
    assert!(
        why(&unknown, "infer").contains("cannot load model"),
        "{unknown}"
    );
    assert!(why(&unknown, "bake_scales").contains("not known"));
    let empty = found("qwen3next", 2);
    assert!(why(&empty, "bake_offsets").contains("layers [0] have no tensor `attn_output.weight`"));
    let headless = found("mamba", 0);
    assert_eq!(why(&headless, "infer"), "it has no attention heads");
    let folded = forms::folded().write(folder.root(), "folded");
    let folded = llama_jola("inspect")
        .args([text(&folded), "--load", "--json"])
        .succeed()
        .json();
    for what in ["train", "infer", "bake_scales", "bake_offsets"] {
        assert!(why(&folded, what).contains("`prism.hadamard.version`"));
    }
}
