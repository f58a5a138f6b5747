//! `llama-jola merge`.

use std::path::Path;

use jola_edit::{Output, Sidecar};
use testkit::{base_model, llama_jola, logits, sidecars, text, Folder};

const TOKENS: [i32; 6] = [504, 3575, 282, 4649, 314, 260];

fn write(sidecar: &Sidecar, path: &Path) {
    sidecar
        .write_output(&Output::without_inputs(path).unwrap())
        .unwrap();
}

#[test]
fn logits_of_the_merged_file_are_those_of_the_list() {
    let folder = Folder::new();
    let [a, b, merged] = ["a.gguf", "b.gguf", "merged.gguf"].map(|name| folder.path(name));
    write(&sidecars::every_head(1, 0.2, 0.05), &a);
    write(&sidecars::every_head(2, 0.2, 0.05), &b);
    let golden = sidecars::golden();
    let list = [(&*a, 1.0), (&*b, -0.5), (&*golden, 0.75)];
    let specs = list.map(|(path, strength)| logits::spec(path, strength));
    let done = llama_jola("merge")
        .args(specs)
        .args(["-o", text(&merged)])
        .succeed();
    assert!(done.stderr.contains("270 of 270 heads"), "{done:?}");
    let of = |edits: logits::Edits<'_>| logits::of_llama(&base_model(), &TOKENS, edits, &[]).bits();
    let expected = of(&list);
    assert_eq!(of(&[(&merged, 1.0)]), expected);
    assert_ne!(of(&[(&a, 1.0)]), expected);
}

#[test]
fn the_file_says_what_it_was_made_of() {
    let folder = Folder::new();
    let merged = folder.path("both.gguf");
    let golden = sidecars::golden();
    let twice = [logits::spec(&golden, 1.0), logits::spec(&golden, 0.5)];
    llama_jola("merge")
        .args(twice)
        .args(["-o", text(&merged)])
        .succeed();
    let shown = llama_jola("inspect")
        .args([text(&merged), "--json"])
        .succeed()
        .json();
    assert_eq!(shown["name"], "both");
    assert_eq!(shown["method"], "merge");
    assert_eq!(shown["train"]["merged_strengths"][1], 0.5);
    assert_eq!(shown["train"]["merged_names"][0], "golden edit");
    let named = ["--name", "mine", "-o", text(&merged)];
    llama_jola("merge").args([&golden]).args(named).succeed();
    assert_eq!(Sidecar::read(&merged).unwrap().name, "mine");
}

#[test]
fn what_cannot_be_merged_leaves_no_file() {
    let folder = Folder::new();
    let [other, merged] = ["other.gguf", "merged.gguf"].map(|name| folder.path(name));
    let mut sidecar = Sidecar::read(sidecars::golden()).unwrap();
    sidecar.architecture = "qwen2".to_owned();
    write(&sidecar, &other);
    let golden = sidecars::golden();
    let fails = |edits: &[&str], said: &[&str]| {
        let cli = llama_jola("merge").args(edits);
        cli.args(["-o", text(&merged)]).fail(1, said);
        assert!(!merged.exists());
    };
    fails(
        &[text(&golden), text(&other)],
        &["edits 0 and 1 are for different models", "other.gguf"],
    );
    fails(&["gone.gguf:0.5"], &["gone.gguf: cannot open it"]);
    fails(&[text(&base_model())], &["base model"]);
    let onto_itself = [text(&other), "-o", text(&other)];
    llama_jola("merge")
        .args(onto_itself)
        .fail(1, &["is an input of this command"]);
}
