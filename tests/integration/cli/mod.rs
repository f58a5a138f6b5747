//! The program as it is typed: exit codes, messages, results.
//!
//! 0: done. 1: something that was named cannot be used, said on stderr. 2: the command line
//! itself is wrong. Nothing is written unless it is complete.

mod bad_input;
mod card;
mod eval;
mod inspect;
mod merge;
mod run;
mod with;

use std::path::Path;

use testkit::{base_model, llama_jola_on, logits, program, sidecars, Cli};

fn llama_jola() -> Cli {
    Cli::new(&program("llama-jola"))
}

#[test]
fn help_and_version_succeed() {
    let commands = [
        "run", "eval", "logits", "inspect", "bench", "bake", "import", "merge", "card", "with",
    ];
    let overview = llama_jola().args(["--help"]).succeed().stdout;
    for command in commands {
        assert!(overview.contains(&format!("\n  {command} ")), "{overview}");
        let help = llama_jola().args([command, "--help"]).succeed();
        assert!(help.stdout.contains(&format!("llama-jola {command}")));
    }
    let version = llama_jola().args(["--version"]).succeed().stdout;
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

/// What is wrong with the line itself, whatever the files hold.
#[test]
fn wrong_command_lines_exit_with_2() {
    let wrong = [
        "sing",
        "run --no-such-flag",
        "run -p Hello",
        "run -m base.gguf -p a -f b",
        "run -m base.gguf --messages m.json --chat",
        "run -m base.gguf --temp warm",
        "eval -m base.gguf",
        "eval -m base.gguf --data d --metric vibes",
        "eval -m base.gguf --data d -np 0",
        "logits -m base.gguf --tokens 1",
        "logits -m base.gguf -o out",
        "logits -m base.gguf -o out --tokens 1,two",
        "logits -m base.gguf -o out --tokens=",
        "logits -m base.gguf -o out --tokens 1 -ctk f64",
        "inspect",
        "bench",
        "bake -m base.gguf",
        "import",
        "with",
    ];
    for line in wrong {
        let args = line.split_whitespace();
        llama_jola().args(args).fail(2, &["--help"]);
    }
    // Without anything: the help, as a failure.
    let bare = llama_jola().run();
    assert_eq!(bare.code, Some(2), "{bare:#?}");
    assert!(bare.stderr.contains("Usage:"), "{bare:#?}");
}

/// llama.cpp's users know `-ngl`, `-fa` and the like.
#[test]
fn single_dash_flags_are_llama_cpps() {
    let (model, tokens) = (base_model(), [504, 31936, 288, 260, 5432]);
    let logits = |options: &[&str]| logits::of_llama(&model, &tokens, &[], options).bits();
    let short = [
        "-ngl", "0", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-ub", "64",
    ];
    let long = [
        "--n-gpu-layers=0",
        "--cache-type-k=f32",
        "--cache-type-v=f32",
        "--flash-attn=off",
        "--ubatch-size=64",
    ];
    let found = logits(&short);
    assert!(found == logits(&long));
    // They are not just swallowed.
    assert!(found != logits(&["-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0"]));
}

#[test]
fn bench_compares_edited_with_unedited() {
    let edit = sidecars::golden();
    let quick = ["-p", "16", "-n", "4", "-r", "2"];
    let found = llama_jola_on("bench", &base_model())
        .args(quick)
        .args([Path::new("--json"), Path::new("--jola"), &edit])
        .succeed()
        .json();
    assert_eq!(found["pairs"], 2);
    assert_eq!(found["edited_layers"], 4);
    for phase in ["prefill", "decode"] {
        let ratio = found["routes"][0][phase]["time_ratio"].as_f64().unwrap();
        assert!(ratio.is_finite() && ratio > 0.0, "{found}");
    }
}
