//! The Rust programs in `examples/`, against the command line on the same model and edits.

use testkit::{base_model, example, llama_jola, sidecars, text, Cli, Folder};

const PROMPT: &str = "The ferry to the island leaves at";
/// Tokens that both examples generate at most.
const LENGTH: &str = "32";

/// What `llama-jola run` answers with an edit.
fn expected(edit: &str) -> String {
    llama_jola("run")
        .args(["-m", text(&base_model()), "--jola", edit, "--temp", "0"])
        .args(["-p", PROMPT, "-n", LENGTH])
        .succeed()
        .stdout
}

fn run(name: &str) -> Cli {
    Cli::new(&example(name)).args([base_model()])
}

#[test]
fn embed_answers_with_the_edit() {
    let edit = sidecars::golden();
    let shown = run("embed").args([text(&edit), PROMPT]).succeed().stdout;
    assert_eq!(shown, expected(text(&edit)));
}

#[test]
fn stream_answers_with_each_edit_of_its_own() {
    let folder = Folder::new();
    let (first, second) = (sidecars::golden(), folder.path("second.gguf"));
    sidecars::every_head(3, 0.3, 0.02).write(&second).unwrap();
    let shown = run("stream")
        .args([text(&first), text(&second), PROMPT])
        .succeed()
        .stdout;
    let answers = [text(&first), text(&second)].map(|edit| (edit, expected(edit)));
    assert_ne!(answers[0].1, answers[1].1);
    let wanted = answers.map(|(edit, answer)| format!("{edit}: {PROMPT}{answer}"));
    assert_eq!(shown, wanted.concat());
}

#[test]
fn wrong_arguments_are_told_the_right_ones() {
    for name in ["embed", "stream"] {
        let finished = Cli::new(&example(name)).run();
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        let usage = format!("usage: {name} BASE.gguf");
        assert!(finished.stderr.contains(&usage), "{finished:#?}");
    }
}
