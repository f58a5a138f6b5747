//! `llama-jola bench`: that what it measures does what it says.

use llama_jola::bench::{every_head, random_lora, LoraTargets, Route, Routed};
use llama_jola::{ContextParams, Model, ModelParams};

use testkit::{alone, base_model, llama_jola_on, sidecars, text, Folder};

const TOKENS: [i32; 6] = [504, 31936, 288, 260, 5432, 3711];

/// A route that changed nothing, or something else, would be measured as well.
#[test]
fn routes_do_what_they_are_called() {
    let _alone = alone();
    let model = Model::load(base_model(), &ModelParams::default()).unwrap();
    let sidecar = every_head(model.shape());
    let edits = model.compose(&[(&sidecar, 1.0)]).unwrap();
    let params = ContextParams {
        n_ctx: 64,
        n_threads: 2,
        ..ContextParams::default()
    };
    let logits = |route: Route| {
        let mut routed = Routed::new(&model, &params, route).unwrap();
        routed.context().logits_of(&TOKENS).unwrap()
    };
    let lora = |targets| {
        let adapters = random_lora(&model, &edits, 8, targets).unwrap();
        logits(Route::Adapters(&adapters))
    };
    let unedited = logits(Route::Unedited);
    let edited = logits(Route::Adapters(&edits.clone().into()));
    assert_ne!(unedited, edited);
    assert_eq!(
        edited,
        logits(Route::EvalCallback(&edits)),
        "the same edits"
    );
    let output = lora(LoraTargets::Output);
    let attention = lora(LoraTargets::Attention);
    assert!(output != unedited && attention != unedited && output != attention);
}

#[test]
fn all_routes_are_reported() {
    let folder = Folder::new();
    let edit = folder.path("every-head.gguf");
    let found = llama_jola_on("bench", &base_model())
        .args(["--every-head", text(&edit), "--eval-callback"])
        .args(["--lora-rank", "2", "-np", "2"])
        .args(["--sets", "1,3", "-p", "8", "-n", "2", "-r", "2", "--json"])
        .succeed()
        .json();
    assert_eq!(found["edited_layers"], 30);
    assert_eq!(found["pairs"], 2);
    let positive = |value: &serde_json::Value| value.as_f64().is_some_and(|x| x > 0.0);
    assert!(positive(&found["load"]["read_ms"]) && positive(&found["load"]["attach_ms"]));
    let routes = found["routes"].as_array().unwrap();
    let names: Vec<&str> = routes
        .iter()
        .map(|r| r["route"].as_str().unwrap())
        .collect();
    let expected = [
        "edited",
        "eval_callback",
        "lora_output",
        "lora_attention",
        "sets_1",
        "sets_3",
        "loras_1",
        "loras_3",
    ];
    assert_eq!(names, expected);
    for route in routes {
        for what in ["prefill", "decode"] {
            let ratio = &route[what];
            let measured = positive(&ratio["time_ratio"]) && positive(&ratio["tokens_per_s"]);
            assert!(measured, "{route}");
        }
    }
}

#[test]
fn nothing_to_measure() {
    let folder = Folder::new();
    let path = folder.path("empty.gguf");
    sidecars::empty().write(&path).unwrap();
    let bench = || llama_jola_on("bench", &base_model());
    bench().fail(1, &["nothing to compare", "--every-head"]);
    bench()
        .args(["--jola", text(&path)])
        .fail(1, &["nothing to compare"]);
    bench()
        .args(["--jola", text(&path), "-r", "0"])
        .fail(1, &["at least 1"]);
}
