//! `llama-jola run`: text.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use llama_jola::{Context, ContextParams, Model, ModelParams, Sidecar};
use testkit::{alone, base_model, llama_jola_on, logits, sidecars, text, Cli, Folder};

const PROMPT: &str = "The ferry to the island leaves at";
/// Tokens to generate: enough for two runs to drift apart if anything is random.
const LENGTH: &str = "24";

fn greedy() -> Cli {
    llama_jola_on("run", &base_model()).args(["--temp", "0", "-n", LENGTH])
}

#[test]
fn greedy_text_is_the_same_every_time_and_edits_change_it() {
    let once = greedy().args(["-p", PROMPT]).succeed();
    let again = greedy().args(["-p", PROMPT]).succeed();
    assert_eq!(once.stdout, again.stdout);
    assert!(once.stdout.trim().len() > 20, "{once:#?}");
    assert_eq!(once.stderr, "");
    let edit = sidecars::golden();
    let edited = greedy()
        .args(["-p", PROMPT, "--jola", text(&edit)])
        .succeed();
    assert_ne!(edited.stdout, once.stdout);
    let off = format!("{}:0", text(&edit));
    let off = greedy()
        .args(["-p", PROMPT, "--jola-scaled", &off])
        .succeed();
    assert_eq!(off.stdout, once.stdout);
}

/// The first word is the token that `logits` finds most likely, with the edit too.
#[test]
fn the_first_token_is_the_most_likely_one() {
    let base = base_model();
    let model = llama_jola::Model::load_vocab(&base).unwrap();
    let tokens = model.tokenize_prompt(PROMPT).unwrap();
    let edit = sidecars::golden();
    for (edits, args) in [
        (&[][..], &[][..]),
        (&[(edit.as_path(), 1.0)][..], &["--jola", text(&edit)][..]),
    ] {
        let best = logits::of_llama(&base, &tokens, edits, &[]).argmax();
        let expected = model.detokenize(&[*best.last().unwrap() as i32]).unwrap();
        let found = llama_jola_on("run", &base)
            .args(["--temp", "0", "-n", "1", "-p", PROMPT])
            .args(args)
            .succeed();
        assert_eq!(found.stdout, expected + "\n");
    }
}

/// An edit may act on the prompt or on what is generated alone.
#[test]
fn tokens_that_an_edit_acts_on_are_chosen() {
    let base = base_model();
    let edit = sidecars::golden();
    let answer = |options: &[&str]| greedy().args(["-p", PROMPT]).args(options).succeed().stdout;
    let on = |which: &str| answer(&["--jola", text(&edit), "--jola-tokens", which]);
    let [all, prompt, generated] = ["all", "prompt", "generated"].map(on);
    assert_eq!(all, answer(&["--jola", text(&edit)]));
    let unedited = answer(&[]);
    let different = BTreeSet::from([&all, &prompt, &generated, &unedited]);
    assert_eq!(different.len(), 4, "{different:?}");

    // The first word, of the logits under an edit at those positions.
    let model = Model::load(&base, &ModelParams::default()).unwrap();
    let sidecar = Sidecar::read(&edit).unwrap();
    let edits = model.compose(&[(&sidecar, 1.0)]).unwrap();
    let tokens = model.tokenize_prompt(PROMPT).unwrap();
    let mut context = Context::new(&model, &ContextParams::default()).unwrap();
    let loaded = context.load_edits(&edits).unwrap();
    let n = tokens.len();
    for (positions, shown) in [(0..n, prompt), (n - 1..usize::MAX, generated)] {
        context.assign_edits(0, &loaded, positions).unwrap();
        let row = context.logits_of(&tokens).unwrap();
        let best = logits::argmax(&row[(n - 1) * model.n_vocab()..]);
        let word = model.detokenize(&[best as i32]).unwrap();
        assert!(shown.starts_with(&word), "{word} {shown}");
    }
    greedy()
        .args(["-p", PROMPT, "--jola-tokens", "generated"])
        .fail(1, &["--jola-tokens needs an edit", "--jola"]);
    greedy()
        .args(["-p", PROMPT, "--jola", text(&edit), "--jola-tokens", "some"])
        .fail(2, &["all, prompt, generated"]);
}

#[test]
fn a_seed_makes_sampling_repeatable() {
    let sample = |seed: &str| {
        llama_jola_on("run", &base_model())
            .args(["--temp", "1.5", "-n", LENGTH, "-p", PROMPT, "--seed", seed])
            .succeed()
            .stdout
    };
    assert_eq!(sample("5"), sample("5"));
    assert_ne!(sample("5"), sample("6"));
}

#[test]
fn prompts_from_the_line_have_escapes_and_from_files_do_not() {
    let folder = Folder::new();
    let file = folder.file("prompt.txt", "One\nTwo\\n");
    let from_file = greedy().args(["-f", text(&file)]).succeed();
    let from_line = greedy().args(["-p", r"One\nTwo\\n"]).succeed();
    assert_eq!(from_file.stdout, from_line.stdout);
    let other = greedy().args(["-p", r"One\nTwo\n"]).succeed();
    assert_ne!(other.stdout, from_file.stdout);
}

/// SmolLM2's template, rendered by hand.
fn rendered(system: &str, user: &str) -> String {
    format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n\
         <|im_start|>assistant\n"
    )
}

#[test]
fn chat_uses_the_models_template() {
    let default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
    let folder = Folder::new();
    let question = "Name three colours.";
    let plain = |text: &str| {
        // One line break at a file's end is not part of the prompt.
        let file = folder.file("rendered.txt", format!("{text}\n"));
        greedy().args([Path::new("-f"), &file]).succeed().stdout
    };
    let expected = plain(&rendered(default, question));
    let chat = greedy().args(["--chat", "-p", question]).succeed();
    assert_eq!(chat.stdout, expected);
    assert_ne!(
        chat.stdout,
        plain(question),
        "the template makes no difference"
    );

    let system = "You answer in French.";
    let expected_french = plain(&rendered(system, question));
    let chat = greedy()
        .args(["--chat", "-sys", system, "-p", question])
        .succeed();
    assert_eq!(chat.stdout, expected_french);

    let messages = serde_json::json!([
        {"role": "system", "content": system},
        {"role": "user", "content": question},
    ]);
    let file = folder.file("messages.json", messages.to_string());
    let chat = greedy().args([Path::new("--messages"), &file]).succeed();
    assert_eq!(chat.stdout, expected_french);
}

/// The model's template has no place for tools and calls: the answer would be one to another
/// conversation.
#[test]
fn what_the_template_leaves_out_of_a_conversation_is_named() {
    let folder = Folder::new();
    let called = serde_json::json!([
        {"role": "user", "content": "Lamp on please"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function",
            "function": {"name": "lamp", "arguments": {"on": true}}}]},
        {"role": "tool", "content": "ok"},
    ]);
    let offered = serde_json::json!({
        "tools": [{"type": "function", "function": {"name": "lamp"}}],
        "messages": [{"role": "user", "content": "Lamp on please"}],
    });
    for (name, json, key) in [
        ("called.json", called, "`tool_calls of message 2`"),
        ("offered.json", offered, "`tools`"),
    ] {
        let file = folder.file(name, json.to_string());
        greedy()
            .args([Path::new("--messages"), &file])
            .fail(1, &[name, key]);
    }
}

/// Lines of standard input are the user's turns; earlier turns are part of the next.
#[test]
fn a_conversation_remembers() {
    let folder = Folder::new();
    let question = "Name three colours.";
    let first = greedy().args(["--chat", "-p", question]).succeed().stdout;
    let converse = |lines: &str| {
        let _alone = alone();
        let mut child = greedy()
            .args(["--chat"])
            .into_command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let both = converse(&format!("{question}\nWhich is best?\n"));
    let second = both.strip_prefix(&first).expect("the first answer again");

    let messages = serde_json::json!([
        {"role": "user", "content": question},
        {"role": "assistant", "content": first.strip_suffix('\n').unwrap()},
        {"role": "user", "content": "Which is best?"},
    ]);
    let file = folder.file("messages.json", messages.to_string());
    let expected = greedy()
        .args([Path::new("--messages"), &file])
        .succeed()
        .stdout;
    assert_eq!(second, expected);
}

/// The text arrives while it is made: in many pieces, the first long before the last.
#[test]
fn text_is_streamed() {
    let _alone = alone();
    let mut child = greedy()
        .args(["-p", PROMPT])
        .into_command()
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut pieces, mut buffer) = (Vec::new(), [0u8; 4096]);
    loop {
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            n => pieces.push(buffer[..n].to_vec()),
        }
    }
    assert!(child.wait().unwrap().success());
    let length: usize = LENGTH.parse().unwrap();
    assert!(pieces.len() > length / 2, "{} pieces", pieces.len());
}

#[test]
fn nothing_to_continue() {
    let folder = Folder::new();
    let none = folder.path("none.txt");
    let broken = folder.file("broken.json", "[{\"role\": \"user\"}]");
    let empty = folder.file("empty.json", "[]");
    let run = || llama_jola_on("run", &base_model());
    run().fail(1, &["-p PROMPT", "--chat"]);
    run().args(["-p", ""]).fail(1, &["prompt is empty"]);
    run()
        .args([Path::new("-f"), &none])
        .fail(1, &["none.txt", "No such file"]);
    let messages = |path: &Path, texts: &[&str]| {
        run().args([Path::new("--messages"), path]).fail(1, texts);
    };
    messages(&none, &["none.txt", "No such file"]);
    messages(&broken, &["broken.json", "content"]);
    messages(&empty, &["empty.json", "no message"]);
}
