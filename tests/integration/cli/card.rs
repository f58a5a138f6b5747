//! `llama-jola card`. The hub's own parser reads a page in `make test-dist`.

use std::fs::{copy, create_dir, read_to_string, write};

use testkit::{llama_jola, sidecars, text, Folder};

/// A folder with the golden sidecar as `edit.gguf`.
fn folder() -> (Folder, String) {
    let folder = Folder::new();
    let edit = folder.path("edit.gguf");
    copy(sidecars::golden(), &edit).unwrap();
    (folder, text(&edit).to_owned())
}

#[test]
fn the_page_lies_beside_the_sidecar_with_its_picture() {
    let (folder, edit) = folder();
    let done = llama_jola("card").args([&edit]).succeed();
    assert!(done.stderr.contains("--base-model OWNER/NAME"), "{done:?}");
    let page = read_to_string(folder.path("README.md")).unwrap();
    for said in [
        "---\nbase_model: \"SmolLM2 135M Instruct\"\nbase_model_relation: adapter\n",
        "tags:\n- llama-cpp\n- gguf\n- jola\n",
        "\n# golden edit\n",
        "10 of 270 attention heads (6 scales, 6 offsets)",
        "](<edit.svg>)",
        "llama-jola with edit.gguf -- llama-server",
        "llama-jola bake -m base.gguf --jola edit.gguf",
    ] {
        assert!(page.contains(said), "no `{said}` in {page}");
    }
    let svg = read_to_string(folder.path("edit.svg")).unwrap();
    assert!(svg.starts_with("<svg"), "{svg}");
    // The command's own page is replaced, somebody else's is not.
    llama_jola("card").args([&edit]).succeed();
    write(folder.path("README.md"), "# mine\n").unwrap();
    llama_jola("card")
        .args([&edit])
        .fail(1, &["somebody else's page: name another with -o"]);
    let page = read_to_string(folder.path("README.md")).unwrap();
    assert_eq!(page, "# mine\n");
}

#[test]
fn a_page_tells_of_the_run_and_of_evaluations() {
    let (folder, edit) = folder();
    let name = |name: &str| text(&folder.path(name)).to_owned();
    let eval = r#"noise
{"unedited": {"metric": "exact", "n": 102, "score": 0.0, "ci95": [0.0, 0.0363]}, "edited": {"metric": "exact", "n": 102, "score": 0.8529, "ci95": [0.7715, 0.9088]}, "test": {"p": 1.3e-26}}
"#;
    write(name("eval.json"), eval).unwrap();
    create_dir(name("edit.run")).unwrap();
    let config = r#"{"data_sha256": "other", "options": {"lr": "0.1"}}"#;
    write(name("edit.run/config.json"), config).unwrap();
    let args = [&edit, "-o", &name("card.md"), "--eval", &name("eval.json")];
    let named = ["--base-model", "me/base", "--license", "mit"];
    let done = llama_jola("card").args(args).args(named).succeed();
    assert!(done.stderr.contains("is of another run"), "{done:?}");
    let page = read_to_string(name("card.md")).unwrap();
    for said in [
        "base_model: \"me/base\"\n",
        "license: \"mit\"\n",
        "| 102 test rows, exact | 0.0000 (95 % interval 0.0000 to 0.0363) | \
         0.8529 (95 % interval 0.7715 to 0.9088), p = 1.30e-26 |",
    ] {
        assert!(page.contains(said), "no `{said}` in {page}");
    }
    assert!(!page.contains("--lr"), "{page}");
}

#[test]
fn what_is_wrong_is_named_and_no_page_written() {
    let (folder, edit) = folder();
    let name = |name: &str| text(&folder.path(name)).to_owned();
    write(name("eval.json"), "{}").unwrap();
    let fails = |args: &[&str], said: &str| {
        llama_jola("card").args([&edit]).args(args).fail(1, &[said]);
        assert!(!folder.path("README.md").exists());
    };
    let no_result = "is no result of `llama-jola eval --json`";
    fails(&["--eval", &name("eval.json")], no_result);
    fails(&["--eval", "gone.json"], "gone.json");
    fails(&["--run-dir", "gone"], "config.json");
    fails(&["-o", &edit], "is an input of this command");
    llama_jola("card")
        .args([&edit, "--base-model", "base"])
        .fail(2, &["expected OWNER/NAME"]);
}
