//! `llama-jola with`: the environment in which it starts a program, and what it refuses.
//! That the edits take effect there is shown by the plugin's own tests.

use testkit::{llama_jola, sidecars, text, Folder};

/// A stand-in for the library: the linker says that it cannot load it and goes on.
fn with_library(folder: &Folder) -> testkit::Cli {
    let library = folder.file("libjola.so", "not a library");
    llama_jola("with").env("JOLA_PLUGIN", library)
}

#[test]
fn the_program_finds_sidecars_and_library_in_its_environment() {
    let folder = Folder::new();
    let edit = folder.file("edit:1.gguf", std::fs::read(sidecars::golden()).unwrap());
    let scaled = format!("{}:0.5", text(&edit));
    let script = "echo \"$LLAMA_JOLA|$LD_PRELOAD|$1|$2\"";
    let shown = with_library(&folder)
        .env("LD_PRELOAD", "/first.so")
        .args([scaled.as_str(), text(&edit)])
        .args(["--", "sh", "-c", script, "sh", "-ngl", "--"])
        .succeed()
        .stdout;
    let library = folder.path("libjola.so").canonicalize().unwrap();
    let edit = edit.canonicalize().unwrap();
    let (edit, library) = (text(&edit), text(&library));
    let expected = format!("{edit}:0.5,{edit}:1|{library}:/first.so|-ngl|--\n");
    assert_eq!(shown, expected);
}

#[test]
fn sidecars_may_be_left_to_the_programs_own_options() {
    let folder = Folder::new();
    let shown = with_library(&folder)
        .args([
            "--",
            "sh",
            "-c",
            "echo \"${LLAMA_JOLA-unset}|$LD_PRELOAD|$1\"",
        ])
        .args(["sh", "--lora"])
        .succeed()
        .stdout;
    let library = folder.path("libjola.so").canonicalize().unwrap();
    assert_eq!(shown, format!("unset|{}|--lora\n", text(&library)));
}

#[test]
fn the_programs_exit_code_is_returned() {
    let folder = Folder::new();
    let finished = with_library(&folder)
        .args([sidecars::golden()])
        .args(["--", "sh", "-c", "exit 7"])
        .run();
    assert_eq!(finished.code, Some(7), "{finished:#?}");
}

#[test]
fn what_cannot_work_is_refused_before_the_program_runs() {
    let folder = Folder::new();
    let golden = sidecars::golden();
    let edit = text(&golden);
    let broken = folder.file("broken.gguf", "GGUF");
    let comma = folder.file("a,b.gguf", std::fs::read(&golden).unwrap());
    let cases: [(&[&str], &[&str]); 5] = [
        (&["/no/such.gguf", "--", "echo"], &["/no/such.gguf"]),
        (
            &[text(&broken), "--", "echo"],
            &["broken.gguf", "truncated"],
        ),
        (&[text(&comma), "--", "echo"], &["a,b.gguf", "comma"]),
        (&[&format!("{edit}:inf"), "--", "echo"], &["finite"]),
        (
            &[edit, "--", "/no/such/program"],
            &["cannot run /no/such/program"],
        ),
    ];
    for (args, texts) in cases {
        with_library(&folder).args(args).fail(1, texts);
    }
    llama_jola("with")
        .env("JOLA_PLUGIN", folder.path("absent.so"))
        .args([edit, "--", "echo"])
        .fail(1, &["JOLA_PLUGIN", "absent.so"]);
    // The plugin has no choice of tokens; which commands have is told.
    let told = [
        "unexpected argument '--jola-tokens'",
        "the plugin and baked models edit every token",
        "`llama-jola run` and `llama-jola eval`",
    ];
    for args in [
        &["--jola-tokens", "generated", edit, "--", "echo"][..],
        &[edit, "--jola-tokens=all", "--", "echo"],
    ] {
        with_library(&folder).args(args).fail(2, &told);
    }
    for args in [&["with"][..], &["with", edit], &["with", "--"]] {
        llama_jola(args[0])
            .args(&args[1..])
            .fail(2, &["Usage: llama-jola with"]);
    }
}
