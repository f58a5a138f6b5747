//! The Rust programs in `examples/`, against the command line on the same model and edits.

use std::path::Path;

use serde_json::json;
use testkit::{base_model, example, llama_jola, sidecars, text, Cli, Folder};

use crate::base::f32_base;
use crate::server::Server;

const PROMPT: &str = "The ferry to the island leaves at";
/// Tokens that both examples generate at most.
const LENGTH: &str = "32";

/// What `llama-jola run` answers with an edit.
fn expected(edit: &str) -> String {
    expected_on(&base_model(), edit)
}

fn expected_on(base: &Path, edit: &str) -> String {
    llama_jola("run")
        .args(["-m", text(base), "--jola", edit, "--temp", "0"])
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

/// Many clients at once, each with edits of its own; some leave before their answer is there.
#[test]
fn the_server_answers_each_with_its_edits() {
    let folder = Folder::new();
    let edit = folder.path("golden.gguf");
    std::fs::copy(sidecars::golden(), &edit).unwrap();
    let on_the_line = expected_on(f32_base(), text(&edit));
    let _alone = testkit::alone();
    let strong = sidecars::every_head(3, 0.3, 0.02);
    strong.write(folder.path("strong.gguf")).unwrap();
    let server = Server::start(&folder);
    let kinds = [
        json!(null),
        json!("golden"),
        json!("strong"),
        json!([{"id": "golden", "scale": 0.5}, {"id": "strong"}]),
        json!([]),
    ];
    let asked = |i: usize| {
        let jola = &kinds[i % kinds.len()];
        json!({"prompt": PROMPT, "max_tokens": 8, "jola": jola})
    };
    // What each is answered while nobody else asks.
    let alone: Vec<String> = (0..kinds.len()).map(|i| server.text(&asked(i))).collect();
    assert_eq!(alone[0], alone[4]);
    let different: std::collections::BTreeSet<&String> = alone[..4].iter().collect();
    assert!(different.len() >= 3, "{alone:?}");
    assert!(on_the_line.starts_with(alone[1].as_str()));

    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, alone) = (&server, &alone);
            scope.spawn(move || {
                for i in client..client + 5 {
                    if (client + i) % 4 == 3 {
                        // This one leaves.
                        drop(server.send("/v1/completions", &asked(i)));
                        continue;
                    }
                    let answer = server.text(&asked(i));
                    // A near tie of floats may still fall another way, late.
                    let words = |text: &str| -> Vec<String> {
                        text.split_whitespace().take(2).map(str::to_owned).collect()
                    };
                    assert_eq!(words(&answer), words(&alone[i % 5]), "request {i}");
                }
            });
        }
    });

    let turns = json!([{"role": "user", "content": "Say yes."}]);
    let chat = json!({"messages": turns, "max_tokens": 4, "jola": "golden", "stream": true});
    let (status, streamed) = server.post("/v1/chat/completions", &chat);
    assert_eq!(status, 200);
    assert!(streamed.contains("chat.completion.chunk") && streamed.contains("data: [DONE]"));
    for (bad, says) in [
        (
            json!({"prompt": PROMPT, "jola": "nobody"}),
            "no edit `nobody`",
        ),
        (json!({"max_tokens": 3}), "either prompt or messages"),
        (json!({"prompt": 3}), "invalid type"),
        (json!({"prompt": "word ".repeat(3000)}), "do not fit"),
    ] {
        let (status, answer) = server.post("/v1/completions", &bad);
        assert!(status == 400 && answer.contains(says), "{status} {answer}");
    }
}

#[test]
fn wrong_arguments_are_told_the_right_ones() {
    for name in ["embed", "server", "stream"] {
        let finished = Cli::new(&example(name)).run();
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        let usage = format!("usage: {name} BASE.gguf");
        assert!(finished.stderr.contains(&usage), "{finished:#?}");
    }
}
