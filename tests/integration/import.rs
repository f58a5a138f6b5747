//! Edits of other projects. `tests/golden/import_make.py` wrote their files with PyTorch,
//! NumPy and safetensors, `tests/golden/pyvene_make.py` with pyvene.

use std::path::{Path, PathBuf};

use jola_edit::gguf::{Array, GgufWriter, Metadata};
use jola_edit::Sidecar;

use testkit::{llama_jola, repository, text, Cli, Folder};

const LAYERS: u32 = 2;
const HEADS: u32 = 4;
const WIDTH: usize = 3;
/// Of pyvene's files.
const PYVENE_WIDTH: usize = 4;

fn golden(name: &str) -> PathBuf {
    repository("tests/golden/import").join(name)
}

/// What import reads of a base model.
fn base(folder: &Folder, heads: &[u32], width: usize) -> PathBuf {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama").unwrap();
    metadata.insert("general.name", "Two Layers").unwrap();
    metadata
        .insert("llama.block_count", heads.len() as u32)
        .unwrap();
    metadata.insert("llama.embedding_length", 12u32).unwrap();
    metadata
        .insert(
            "llama.attention.head_count",
            Array::U32(heads.to_vec()).clone(),
        )
        .unwrap();
    metadata
        .insert("llama.attention.value_length", width as u32)
        .unwrap();
    let path = folder.path("base.gguf");
    GgufWriter::new(metadata).unwrap().write(&path).unwrap();
    path
}

fn command(folder: &Folder, files: &[&Path], more: &[&str]) -> Cli {
    let base = base(folder, &[HEADS; LAYERS as usize], WIDTH);
    let out = folder.path("edit.gguf");
    llama_jola("import")
        .args(files.iter().copied())
        .args(["-m", text(&base), "-o", text(&out)])
        .args(more.iter().copied())
}

fn import(folder: &Folder, file: &str, more: &[&str]) -> Sidecar {
    command(folder, &[&golden(file)], more).succeed();
    Sidecar::read(folder.path("edit.gguf")).unwrap()
}

/// `[layer][head][dimension]`, zeros where nothing is edited.
type Dense = Vec<Vec<Vec<f32>>>;

fn dense(sidecar: &Sidecar) -> [Dense; 2] {
    let mut halves =
        [(); 2].map(|()| vec![vec![vec![0.0; WIDTH]; HEADS as usize]; LAYERS as usize]);
    for (&layer, edit) in &sidecar.layers {
        for (half, dense) in [&edit.mul, &edit.add].into_iter().zip(&mut halves) {
            for (head, values) in half.iter().flat_map(|v| v.iter(WIDTH as u32)) {
                dense[layer as usize][head as usize] = values.to_vec();
            }
        }
    }
    halves
}

fn assert_close(found: &Dense, expected: &Dense) {
    let flat = |dense: &Dense| {
        dense
            .iter()
            .flatten()
            .flatten()
            .copied()
            .collect::<Vec<f32>>()
    };
    for (found, expected) in flat(found).iter().zip(flat(expected)) {
        assert!(
            (found - expected).abs() <= 1e-6 * expected.abs(),
            "{found} {expected}"
        );
        assert_eq!(*found == 0.0, expected == 0.0);
    }
}

#[test]
fn checkpoints_of_the_paper_in_every_layout() {
    let json = std::fs::read(golden("jola.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let half = |name: &str| serde_json::from_value::<Dense>(expected[name].clone()).unwrap();
    for file in [
        "jola.pt",
        "jola_parameters.pt",
        "jola_stacked.pt",
        "jola.safetensors",
    ] {
        let folder = Folder::new();
        let sidecar = import(&folder, file, &[]);
        assert_eq!(
            (sidecar.method.as_str(), sidecar.base_model_name.as_str()),
            ("jola", "Two Layers")
        );
        let [mul, add] = dense(&sidecar);
        assert_close(&mul, &half("mul"));
        assert_close(&add, &half("add"));
        // Closed gates are left out: 2 + 1 scales and 3 + 3 offsets are open.
        let stats = sidecar.stats();
        assert_eq!((stats.open_mul, stats.open_add), (3, 6), "{file}");
    }
    // Gates rounded to bfloat16 differ, the gates that are fully open do not.
    let folder = Folder::new();
    let [mul, _] = dense(&import(&folder, "jola_bf16.pt", &[]));
    assert_eq!(mul[0][0], half("mul")[0][0]);
}

#[test]
fn offsets_of_lofit() {
    let folder = Folder::new();
    let sidecar = import(&folder, "lofit.pt", &["--name", "truthful"]);
    assert_eq!(
        (sidecar.method.as_str(), sidecar.name.as_str()),
        ("lofit", "truthful")
    );
    let [mul, add] = dense(&sidecar);
    assert!(mul.iter().flatten().flatten().all(|value| *value == 0.0));
    assert_eq!(add[0][1], [-0.5, -0.625, -0.75]);
    assert_eq!(add[1][3], [-2.75, -2.875, -3.0]);
    assert_eq!(sidecar.stats().open_add, 2);
    let [_, add] = dense(&import(&folder, "lofit_offsets.pt", &[]));
    assert_eq!(
        (add[0][0].as_slice(), add[1][3].as_slice()),
        (&[-0.125, -0.25, -0.375][..], &[-2.75, -2.875, -3.0][..])
    );
}

#[test]
fn directions_of_iti() {
    let folder = Folder::new();
    // α·σ·direction, the direction normalised: 15 · 0.5 · (0, 0.6, 0.8).
    let [_, add] = dense(&import(&folder, "iti.npz", &["--alpha", "15"]));
    assert_eq!(
        (add[0][2].as_slice(), add[1][0].as_slice()),
        (&[0.0, 4.5, 6.0][..], &[7.5, 0.0, 0.0][..])
    );
    for file in ["iti.npy", "iti_fortran.npy"] {
        let sidecar = import(&folder, file, &["--alpha", "0.5"]);
        let [_, add] = dense(&sidecar);
        assert_eq!(
            (add[0][2].as_slice(), add[1][0].as_slice()),
            (&[0.0, 1.5, 2.0][..], &[1.0, 0.0, 0.0][..])
        );
        assert_eq!(
            (sidecar.method.as_str(), sidecar.stats().edited_heads),
            ("iti", 2)
        );
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let folder = Folder::new();
    let refuse = |file: &Path, more: &[&str], texts: &[&str]| {
        command(&folder, &[file], more).fail(1, texts);
        assert!(!folder.path("edit.gguf").exists());
    };
    refuse(
        &golden("calls.pt"),
        &[],
        &[
            "calls.pt",
            "the pickle names `datetime.date`",
            "nothing is run",
        ],
    );
    refuse(&golden("legacy.pt"), &[], &["before version 1.6"]);
    refuse(&golden("jola.json"), &[], &["not a file that is read here"]);
    refuse(
        &golden("lofit.pt"),
        &["--format", "jola"],
        &["layer 0 has `attn_A` but no `log_g2`"],
    );
    refuse(
        &golden("jola.pt"),
        &["--format", "lofit"],
        &["layer 0 has gates"],
    );
    refuse(
        &folder.path("missing.pt"),
        &[],
        &["missing.pt: cannot open it"],
    );
    let twice = golden("jola.pt");
    command(&folder, &[&twice, &golden("jola.safetensors")], &[])
        .fail(1, &["is also in", "jola.pt"]);

    // Every file cut short anywhere is an error, never a panic or a file.
    for name in ["jola.pt", "jola.safetensors", "iti.npz", "iti.npy"] {
        let whole = std::fs::read(golden(name)).unwrap();
        for part in [0, 1, 7, 20, whole.len() / 2, whole.len() - 1] {
            let cut = folder.file("cut", &whole[..part]);
            refuse(&cut, &[], &["cut: "]);
        }
    }
    // Another model.
    let other = Folder::new();
    let base = base(&other, &[4, 3], WIDTH);
    let out = other.path("edit.gguf");
    let import = |file: &str| {
        llama_jola("import")
            .args([golden(file)])
            .args(["-m", text(&base), "-o", text(&out)])
    };
    import("jola.pt").fail(
        1,
        &[
            "model.layers.1.self_attn.attn_A.3",
            "is for head 3, the model has 3",
        ],
    );
    import("jola_stacked.pt").fail(1, &["has shape [4, 3], expected [3, 3]"]);
    import("iti.npy").fail(1, &["has shape [8, 3]"]);
    assert!(!out.exists());
}

/// A copy of a folder that pyvene saved, with its configuration changed.
fn pyvene(folder: &Folder, name: &str, change: impl FnOnce(&mut serde_json::Value)) -> PathBuf {
    let copy = folder.path(name);
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let path = copy.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    copy
}

fn import_pyvene(folder: &Folder, from: &Path, more: &[&str]) -> Cli {
    let base = base(folder, &[HEADS; LAYERS as usize], PYVENE_WIDTH);
    let out = folder.path("edit.gguf");
    llama_jola("import")
        .args([from])
        .args(["-m", text(&base), "-o", text(&out)])
        .args(more.iter().copied())
}

/// The sidecar makes of the heads' outputs what pyvene made of them.
#[test]
fn interventions_of_pyvene_do_what_pyvene_does() {
    for (name, heads, edited) in [
        ("pyvene_layers", &[][..], 8),
        ("pyvene_heads", &["--heads", "2,0+3"][..], 3),
    ] {
        let folder = Folder::new();
        import_pyvene(&folder, &golden(name), heads).succeed();
        let sidecar = Sidecar::read(folder.path("edit.gguf")).unwrap();
        assert_eq!(sidecar.method, "pyvene");
        assert_eq!(sidecar.stats().edited_heads, edited, "{name}");
        let json = std::fs::read(golden(name).join("outputs.json")).unwrap();
        // By layer, position and value.
        let outputs: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let outputs = |key: &str| serde_json::from_value::<Dense>(outputs[key].clone()).unwrap();
        let width = HEADS as usize * PYVENE_WIDTH;
        for (layer, (before, after)) in (0..).zip(outputs("before").iter().zip(outputs("after"))) {
            let mut mul = vec![0.0; width];
            let mut add = vec![0.0; width];
            let edit = &sidecar.layers[&layer];
            for (half, dense) in [(&edit.mul, &mut mul), (&edit.add, &mut add)] {
                for (head, values) in half.iter().flat_map(|v| v.iter(PYVENE_WIDTH as u32)) {
                    let start = head as usize * PYVENE_WIDTH;
                    dense[start..start + PYVENE_WIDTH].copy_from_slice(values);
                }
            }
            for (position, (before, after)) in before.iter().zip(after).enumerate() {
                for index in 0..width {
                    let found = (1.0 + mul[index]) * before[index] + add[index];
                    // Two sources were added before they became one offset: single floats.
                    assert!(
                        (found - after[index]).abs() <= 1e-6,
                        "{name}, layer {layer}, position {position}, value {index}: {found}, \
                         pyvene {}",
                        after[index]
                    );
                }
            }
        }
    }
}

#[test]
fn only_the_first_dimensions_of_a_pyvene_intervention_are_edited() {
    let folder = Folder::new();
    let from = pyvene(&folder, "pyvene_heads", |config| {
        config["intervention_dimensions"] = [1, 3].into();
    });
    import_pyvene(&folder, &from, &["--heads", "2,0+3"]).succeed();
    let sidecar = Sidecar::read(folder.path("edit.gguf")).unwrap();
    let values = |layer| {
        let edit: &jola_edit::sidecar::LayerEdit = &sidecar.layers[&layer];
        let half = edit.mul.as_ref().or(edit.add.as_ref()).unwrap();
        half.values.iter().map(|v| *v != 0.0).collect::<Vec<_>>()
    };
    assert_eq!(values(0), [true, false, false, false]);
    assert_eq!(values(1), [true, true, true, false].repeat(2));
}

#[test]
fn interventions_of_pyvene_that_are_no_scale_and_offset_are_refused() {
    let folder = Folder::new();
    let refuse = |from: &Path, more: &[&str], expected: &str| {
        import_pyvene(&folder, from, more).fail(1, &[expected]);
        assert!(!folder.path("edit.gguf").exists());
    };
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 10] = [
        (
            |c| c["mode"] = "serial".into(),
            "mode `serial`: there one run's values go into the next",
        ),
        (
            |c| {
                c["intervention_types"][1] =
                    "<class 'pyvene.models.interventions.RotatedSpaceIntervention'>".into();
            },
            "RotatedSpaceIntervention'> is not a constant scale and offset",
        ),
        (
            |c| c["intervention_types"][1] = "<class '__main__.AdditionIntervention'>".into(),
            "<class '__main__.AdditionIntervention'> is not a constant",
        ),
        (
            |c| c["representations"][2][1] = "block_output".into(),
            "intervention 2, on `block_output`: a sidecar edits the heads' outputs",
        ),
        (
            |c| c["representations"][0][2] = "t".into(),
            "units of `t` are not heads or positions",
        ),
        (
            |c| c["representations"][0][7] = serde_json::json!([[0, 2], [2, 4]]),
            "`subspace_partition` makes it more",
        ),
        (
            |c| c["intervention_constant_sources"][0] = false.into(),
            "its source is another run's values",
        ),
        (
            |c| c["representations"][0][0] = "0".into(),
            "intervention 0 does not begin with layer, component",
        ),
        (
            |c| c["representations"][0][0] = 2.into(),
            "its layer is not one of the model's 2",
        ),
        (
            |c| c["sorted_keys"][0] = "../layer_0".into(),
            "`sorted_keys` has no `layer_0_comp_attention_value_output_unit_pos_nunit_1#0`",
        ),
    ];
    for (change, expected) in changes {
        refuse(&pyvene(&folder, "pyvene_layers", change), &[], expected);
    }
    let heads = golden("pyvene_heads");
    refuse(&heads, &[], "2 interventions are on single heads");
    refuse(
        &heads,
        &["--heads", "2,4"],
        "layer 1 has no head 4, it has 4",
    );
    refuse(&heads, &["--format", "jola"], "pyvene_heads: ");
    let keys = "intkey_layer_0_comp_head_attention_value_output_unit_h_pos_nunit_1#0.bin";
    refuse(&heads.join(keys), &[], "give the folder that it is in");
    refuse(
        &golden("lofit.pt"),
        &["--heads", "1"],
        "--heads is for folders of pyvene",
    );
    refuse(
        &golden("lofit.pt"),
        &["--format", "pyvene"],
        "pyvene saves a folder",
    );
    let cut = pyvene(&folder, "pyvene_heads", |_| {});
    std::fs::remove_file(cut.join(keys)).unwrap();
    refuse(&cut, &["--heads", "2,0+3"], "nunit_1#0.bin: cannot open it");
    std::fs::write(cut.join("config.json"), "{").unwrap();
    refuse(
        &cut,
        &[],
        "config.json: not a configuration that pyvene saved",
    );
    // Another model: its heads are of another width.
    let base = base(&folder, &[HEADS; LAYERS as usize], WIDTH);
    let out = folder.path("edit.gguf");
    llama_jola("import")
        .args([&heads])
        .args(["-m", text(&base), "-o", text(&out), "--heads", "2,0+3"])
        .fail(1, &["has shape [4], expected [3]"]);
}
