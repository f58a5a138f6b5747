//! `llama-jola inspect`.

use std::path::Path;
use std::process::Stdio;

use jola_edit::gguf::Gguf;
use serde_json::{json, Value};

use testkit::{base_model, llama_jola, sidecars, text, Folder};

/// What tests/golden/make.py put into the golden sidecar.
const HEADS_TOTAL: usize = 270;
const HEADS_EDITED: usize = 10;
const SCALES: usize = 6;
const OFFSETS: usize = 6;

#[test]
fn table() {
    let shown = llama_jola("inspect")
        .args([sidecars::golden()])
        .succeed()
        .stdout;
    let summary = "10 of 270 heads, in 4 of 30 layers: 6 scales, 6 offsets, 768 numbers";
    assert!(shown.contains(summary), "{shown}");
    assert!(shown.contains("golden edit") && shown.contains("SmolLM2 135M Instruct"));
    let heads: Vec<Vec<&str>> = shown
        .lines()
        .skip_while(|line| !line.contains("|scale|"))
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(heads.len(), HEADS_EDITED, "{shown}");
    // Layer 0: head 0 only scaled, head 4 both, head 7 only shifted.
    assert_eq!(heads[0][..2], ["0", "0"]);
    assert_eq!((heads[0][2] == "-", heads[0][3]), (false, "-"));
    assert_eq!((heads[1][2] == "-", heads[1][3] == "-"), (false, false));
    assert_eq!(heads[2][..3], ["0", "7", "-"]);
}

/// What a command says on stderr while its stdout is `output`, and its exit code.
fn writing_to(output: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut command = llama_jola("inspect")
        .args([sidecars::golden()])
        .into_command();
    let done = command.stdout(output).stderr(Stdio::piped()).output();
    let done = done.expect("it starts");
    let said = String::from_utf8(done.stderr).expect("stderr is UTF-8");
    (done.status.code(), said)
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(writing_to(writer), (Some(0), String::new()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_standard_output_is_said() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let (code, said) = writing_to(full);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("error: writing to standard output: No space"),
        "{said}"
    );
}

#[test]
fn json() {
    let path = sidecars::golden();
    let shown = llama_jola("inspect")
        .args(["--json", text(&path)])
        .succeed();
    let found = shown.json();
    let keys: Vec<&str> = found
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let promised = [
        "architecture",
        "name",
        "base_model",
        "base_sha256",
        "base_is_training_file",
        "method",
        "bytes",
        "layers_total",
        "layers_edited",
        "heads_total",
        "heads_edited",
        "head_dim",
        "scale_gates_open",
        "offset_gates_open",
        "values",
        "heads",
        "train",
    ];
    assert_eq!(keys, promised);
    let expected = json!({
        "architecture": "llama", "name": "golden edit", "method": "random",
        "base_sha256": null, "layers_total": 30, "layers_edited": 4,
        "heads_total": HEADS_TOTAL, "heads_edited": HEADS_EDITED, "head_dim": 64,
        "scale_gates_open": SCALES, "offset_gates_open": OFFSETS, "values": 768,
        "bytes": std::fs::metadata(&path).unwrap().len(),
        "train": {"seed": 1},
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&found[key], value, "{key}");
    }
    assert_eq!(found["heads"].as_array().unwrap().len(), HEADS_EDITED);
    check_norms(&path, &found);
}

/// The norms of layer 29 (scale: head 1; offset: heads 1 and 6) from the tensors' bytes.
fn check_norms(path: &Path, found: &Value) {
    let file = Gguf::open(path).unwrap();
    let norm = |half: &str, row: usize| {
        let tensor = file
            .tensor(&format!("blk.29.attn_output.jola_{half}"))
            .unwrap();
        let values = tensor.to_f32s().unwrap();
        let row = &values[64 * row..64 * (row + 1)];
        row.iter()
            .map(|v| f64::from(*v).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let heads = found["heads"].as_array().unwrap();
    let check = |head: &Value, number: u32, mul: Option<f64>, add: f64| {
        assert_eq!(
            (&head["layer"], &head["head"]),
            (&json!(29), &json!(number))
        );
        // serde_json reads numbers to 15 digits only.
        let close = |found: &Value, expected: f64| {
            let found = found.as_f64().unwrap();
            assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
        };
        match mul {
            Some(mul) => close(&head["mul"], mul),
            None => assert_eq!(head["mul"], Value::Null),
        }
        close(&head["add"], add);
    };
    check(
        &heads[HEADS_EDITED - 2],
        1,
        Some(norm("mul", 0)),
        norm("add", 0),
    );
    check(&heads[HEADS_EDITED - 1], 6, None, norm("add", 1));
}

#[test]
fn json_with_the_base_model() {
    let (path, base) = (sidecars::golden(), base_model());
    let found = llama_jola("inspect")
        .args([path.as_path(), Path::new("--json"), Path::new("-m"), &base])
        .succeed()
        .json();
    // The golden sidecar does not say which file it belongs to.
    assert_eq!(found["base_is_training_file"], Value::Null);

    let folder = Folder::new();
    let mut sidecar = sidecars::empty();
    for (digest, same) in [
        (jola_edit::sidecar::sha256(&base).unwrap(), true),
        ("0".repeat(64), false),
    ] {
        let path = folder.path("edit.gguf");
        sidecar.base_sha256 = Some(digest);
        sidecar.write(&path).unwrap();
        let found = llama_jola("inspect")
            .args([path.as_path(), Path::new("--json"), Path::new("-m"), &base])
            .succeed()
            .json();
        assert_eq!(found["base_is_training_file"], same);
    }
}

/// Cells of the picture, all and those of open gates.
fn cells(svg: &str) -> (usize, usize) {
    let document = roxmltree::Document::parse(svg).unwrap_or_else(|e| panic!("{e}: {svg}"));
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let hints: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("title"))
        .filter(|node| node.parent().unwrap().tag_name().name() == "rect")
        .map(|node| node.text().unwrap())
        .collect();
    let open = hints.iter().filter(|hint| !hint.ends_with("closed"));
    (hints.len(), open.count())
}

#[test]
fn plot() {
    let folder = Folder::new();
    let out = folder.path("edit.svg");
    let edit = sidecars::golden();
    llama_jola("inspect")
        .args([edit.as_path(), Path::new("--plot"), &out])
        .succeed();
    let svg = std::fs::read_to_string(&out).unwrap();
    let (all, open) = cells(&svg);
    // Open cells lie over the grid of two panels.
    assert_eq!(open, SCALES + OFFSETS);
    assert_eq!(all - open, 2 * HEADS_TOTAL);
    assert!(svg.contains("golden edit"));
    assert!(svg.contains("10 of 270 heads edited: 6 scales, 6 offsets"));
    assert_eq!(folder.names(), ["edit.svg"]);
}

/// A sidecar's name is free text from a stranger.
#[test]
fn plot_of_an_awkward_name() {
    let folder = Folder::new();
    let (edit, out) = (folder.path("edit.gguf"), folder.path("edit.svg"));
    let mut sidecar = sidecars::empty();
    sidecar.name = "<script>&amp;\"'</svg>]]>".into();
    sidecar.write(&edit).unwrap();
    llama_jola("inspect")
        .args([edit.as_path(), Path::new("--plot"), &out])
        .succeed();
    let svg = std::fs::read_to_string(&out).unwrap();
    assert_eq!(cells(&svg), (2 * HEADS_TOTAL, 0));
    let document = roxmltree::Document::parse(&svg).unwrap();
    let shown = document.descendants().filter_map(|node| node.text());
    assert!(
        shown.into_iter().any(|text| text.contains(&sidecar.name)),
        "{svg}"
    );
}
