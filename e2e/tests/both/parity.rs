//! One model, three implementations: llama.cpp with the hook, the trainer's reference model,
//! and the NumPy forward pass whose results lie in tests/golden. In 32-bit floats all three
//! must say the same.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::programs::{f32_base, of_trainer};
use testkit::logits::{self, distance, norm, worst_error, Logits};
use testkit::{repository, sidecars, Folder};

/// Largest relative error of a position's logits between two implementations. All compute
/// in 32-bit floats or better, but sum in another order and with other approximations of
/// exp and silu: seen 2e-6 to 7e-6. A wrong equation is off by 1e-2 and more.
pub const TOLERANCE: f64 = 1e-4;
/// Keys and values in 32-bit floats. This also keeps attention from being fused, which
/// would round them to 16 and cost 2e-3.
pub const EXACT: [&str; 4] = ["-ctk", "f32", "-ctv", "f32"];
/// Least distance that an edit under test makes: far above the tolerance, or a lost edit
/// would not be noticed.
pub const EFFECT: f64 = 100.0 * TOLERANCE;

/// The sidecar `every_head` of tests/golden/make.py.
const EVERY_HEAD_SEED: u64 = 3;
const EVERY_HEAD_MUL: f32 = 0.3;
const EVERY_HEAD_ADD: f32 = 0.02;

#[derive(Deserialize)]
struct Golden {
    text: String,
    tokens: Vec<i32>,
    columns: Vec<usize>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Names of sidecars with scales.
    sidecars: Vec<(String, f32)>,
    argmax: Vec<usize>,
    norm: Vec<f64>,
}

impl Golden {
    fn read() -> Self {
        let text = std::fs::read_to_string(repository("tests/golden/golden.json")).unwrap();
        let golden: Self = serde_json::from_str(&text).unwrap();
        assert!(golden.tokens.len() >= 48 && golden.columns.len() >= 128);
        golden
    }

    /// A case, with its logits [positions, columns].
    fn case(&self, name: &str) -> (&Case, Vec<f32>) {
        let index = self.cases.iter().position(|case| case.name == name);
        let index = index.unwrap_or_else(|| panic!("no case {name}"));
        let shape = [self.cases.len(), self.tokens.len(), self.columns.len()];
        let values = read_npy(&repository("tests/golden/logits.npy"), &shape);
        let len = shape[1] * shape[2];
        let case = &self.cases[index];
        assert_eq!(case.argmax.len(), self.tokens.len());
        assert_eq!(case.norm.len(), self.tokens.len());
        (case, values[index * len..(index + 1) * len].to_vec())
    }

    /// Compares with all that the golden files keep of a case.
    fn check(&self, name: &str, found: &Logits, engine: &str) {
        let (case, expected) = self.case(name);
        assert_eq!(found.argmax(), case.argmax, "{engine}, {name}");
        let kept: Vec<Vec<f32>> = found
            .rows()
            .map(|row| self.columns.iter().map(|column| row[*column]).collect())
            .collect();
        let rows = kept.iter().map(Vec::as_slice);
        let error = worst_error(rows.zip(expected.chunks_exact(self.columns.len())));
        assert!(error <= TOLERANCE, "{engine}, {name}: {error:.2e}");
        for (row, expected) in found.rows().zip(&case.norm) {
            let error = norm(row.iter().map(|v| f64::from(*v))) / expected - 1.0;
            assert!(error.abs() <= TOLERANCE, "{engine}, {name}: norm {error:e}");
        }
        println!("{name}: {engine} against NumPy {error:.2e}");
    }
}

/// Reads a .npy file of little-endian float32 in C order.
fn read_npy(path: &Path, shape: &[usize]) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..data]).unwrap();
    let shape_text: Vec<String> = shape.iter().map(usize::to_string).collect();
    let expected = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}",
        shape_text.join(", ")
    );
    assert_eq!(header.trim(), expected);
    let values = bytes[data..].chunks_exact(4);
    let values: Vec<f32> = values
        .map(|raw| f32::from_le_bytes(raw.try_into().unwrap()))
        .collect();
    assert_eq!(values.len(), shape.iter().product::<usize>());
    values
}

/// The sidecars that golden cases name, as files.
struct Files {
    folder: Folder,
}

impl Files {
    fn new() -> Self {
        let folder = Folder::new();
        let every_head = sidecars::every_head(EVERY_HEAD_SEED, EVERY_HEAD_MUL, EVERY_HEAD_ADD);
        every_head.write(folder.path("every_head.gguf")).unwrap();
        std::fs::copy(sidecars::golden(), folder.path("edit.gguf")).unwrap();
        Self { folder }
    }

    fn of(&self, case: &Case) -> Vec<(PathBuf, f32)> {
        let file = |name: &str| self.folder.path(&format!("{name}.gguf"));
        let sidecars = case.sidecars.iter();
        sidecars.map(|(name, scale)| (file(name), *scale)).collect()
    }
}

/// Each engine against NumPy, and both against each other on the whole vocabulary.
fn three_ways(name: &str) -> Logits {
    let golden = Golden::read();
    let files = Files::new();
    let edits = files.of(golden.case(name).0);
    let edits: Vec<(&Path, f32)> = edits.iter().map(|(p, s)| (p.as_path(), *s)).collect();
    let llama = logits::of_llama(f32_base(), &golden.tokens, &edits, &EXACT);
    golden.check(name, &llama, "llama.cpp");
    let trainer = of_trainer(f32_base(), &golden.tokens, &edits);
    golden.check(name, &trainer, "the trainer");
    let error = distance(&llama, &trainer);
    assert!(error <= TOLERANCE, "{name}: {error:.2e}");
    println!("{name}: llama.cpp against the trainer {error:.2e}");
    llama
}

#[test]
fn without_an_edit() {
    three_ways("unedited");
}

#[test]
fn with_a_sidecar_by_another_writer() {
    three_ways("edit");
}

#[test]
fn with_every_head_of_every_layer_edited() {
    three_ways("every_head");
}

#[test]
fn with_several_sidecars_and_scales_whose_order_matters() {
    let forward = three_ways("several");
    let reversed = three_ways("several_reversed");
    let effect = distance(&forward, &reversed);
    assert!(
        effect > EFFECT,
        "the order makes a difference of {effect:.2e}"
    );
}

/// Without this the comparisons above could pass although no edit is applied anywhere.
#[test]
fn the_golden_edits_matter() {
    let golden = Golden::read();
    let (_, unedited) = golden.case("unedited");
    for name in ["edit", "every_head", "several"] {
        let (_, edited) = golden.case(name);
        let effect = worst_error(std::iter::once((&edited[..], &unedited[..])));
        assert!(effect > EFFECT, "{name}: {effect:.2e}");
    }
}

/// `--jola F` is `--jola-scaled F:1`, and those of `--jola` come first.
#[test]
fn both_spellings_of_a_sidecar_mean_the_same() {
    let golden = Golden::read();
    let files = Files::new();
    let (every_head, edit) = (files.folder.path("every_head.gguf"), sidecars::golden());
    let tokens = &golden.tokens[..8];
    let scaled = [(every_head.as_path(), 1.0), (edit.as_path(), 0.5)];
    let expected = logits::of_llama(&testkit::base_model(), tokens, &scaled, &[]);
    let cli = testkit::llama_jola_on("logits", &testkit::base_model())
        .args(["--jola-scaled".into(), logits::spec(&edit, 0.5)])
        .args([Path::new("--jola"), &every_head]);
    let found = logits::run(cli, tokens);
    assert!(found.bits() == expected.bits());
}

/// Fused attention and a cache of 16-bit floats, the defaults, round keys and values to 11
/// bits; the edit must survive that.
#[test]
fn default_settings_stay_close() {
    /// Four times what rounding to 16-bit floats was seen to cost.
    const TOLERANCE_F16: f64 = 1e-2;
    let golden = Golden::read();
    let files = Files::new();
    let edits = files.of(golden.case("every_head").0);
    let edits: Vec<(&Path, f32)> = edits.iter().map(|(p, s)| (p.as_path(), *s)).collect();
    let exact = logits::of_llama(f32_base(), &golden.tokens, &edits, &EXACT);
    let default = logits::of_llama(f32_base(), &golden.tokens, &edits, &[]);
    let error = distance(&default, &exact);
    println!("default settings: {error:.2e}");
    assert!(error <= TOLERANCE_F16, "{error:.2e}");
    assert!(error > 0.0, "the settings are ignored");
}

#[test]
fn the_golden_tokens_are_the_models_own() {
    let golden = Golden::read();
    let model = llama_jola::Model::load_vocab(testkit::base_model()).unwrap();
    let tokens = model.tokenize_prompt(&golden.text).unwrap();
    assert_eq!(tokens, golden.tokens);
}

/// An edit of nothing leaves the graph as it is, so that not even a rounding differs.
#[test]
fn an_edit_of_nothing_changes_no_bit() {
    let golden = Golden::read();
    let folder = Folder::new();
    let model = testkit::base_model();
    let no_tensors = folder.path("no_tensors.gguf");
    sidecars::empty().write(&no_tensors).unwrap();
    let zeros = folder.path("zeros.gguf");
    sidecars::every_head(1, 0.0, 0.0).write(&zeros).unwrap();
    let edit = sidecars::golden();
    let cases: [(&str, Vec<(&Path, f32)>); 4] = [
        ("no tensors", vec![(&no_tensors, 1.0)]),
        ("all zeros", vec![(&zeros, 1.0)]),
        ("scale 0", vec![(&edit, 0.0)]),
        (
            "all of them",
            vec![(&zeros, -2.0), (&edit, 0.0), (&no_tensors, 1.0)],
        ),
    ];
    let of_llama = |edits: &[_]| logits::of_llama(&model, &golden.tokens, edits, &[]);
    let of_trainer = |edits: &[_]| of_trainer(&model, &golden.tokens, edits);
    let engines = ["llama.cpp", "the trainer"];
    for engine in engines {
        let logits = |edits: &[_]| match engine {
            "llama.cpp" => of_llama(edits),
            _ => of_trainer(edits),
        };
        let plain = logits(&[]);
        for (what, edits) in &cases {
            assert!(logits(edits).bits() == plain.bits(), "{engine}, {what}");
        }
        let edited = logits(&[(&edit, 1.0)]);
        assert!(
            edited.bits() != plain.bits(),
            "{engine} applies no edit at all"
        );
    }
}
