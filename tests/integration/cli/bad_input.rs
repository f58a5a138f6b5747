//! Input that only `llama-jola` can be given: one message that names it, exit status 1, nothing
//! written. What both programs refuse is tested in e2e/.

use std::path::Path;

use testkit::{base_model, llama_jola_on, text, Folder};

#[test]
fn prompt_longer_than_the_context() {
    let folder = Folder::new();
    let long = "word ".repeat(400);
    let prompt = folder.file("long.txt", &long);
    // llama.cpp rounds context sizes up to a multiple of 256.
    let context = ["-c", "256"];
    let needed = ["402 tokens", "256", "-c"];
    llama_jola_on("run", &base_model())
        .args(context)
        .args(["-f", text(&prompt)])
        .fail(1, &needed);

    let row = serde_json::json!({"prompt": long, "completion": "x"});
    let other = serde_json::json!({"prompt": "short", "completion": "y"});
    let data = folder.file("long.jsonl", format!("{other}\n{row}\n"));
    let out = folder.path("out");
    for metric in ["exact", "choice", "perplexity"] {
        llama_jola_on("eval", &base_model())
            .args(context)
            .args(["--data", text(&data), "--predictions", text(&out)])
            .args(["--metric", metric])
            .fail(
                1,
                &[
                    "long.jsonl",
                    "line 2",
                    "tokens do not fit the context of 256",
                    "-c",
                ],
            );
        assert!(!out.exists());
    }

    let tokens = vec!["1"; 300].join(",");
    llama_jola_on("logits", &base_model())
        .args(context)
        .args(["--tokens", &tokens, "-o", text(&out)])
        .fail(1, &["300 tokens", "256", "-c"]);
    assert!(!out.exists());
}

#[test]
fn tokens_out_of_range() {
    let folder = Folder::new();
    let out = folder.path("out");
    for token in ["49152", "2147483647", "-1"] {
        llama_jola_on("logits", &base_model())
            .args([format!("--tokens=1,{token}")])
            .args([Path::new("-o"), &out])
            .fail(1, &[&format!("token {token}"), "vocabulary of 49152"]);
        assert!(!out.exists());
    }
}
