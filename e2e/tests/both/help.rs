//! `jola-train` as it is typed: help, version, and command lines that are wrong in themselves.

use crate::programs::jola_train;

#[test]
fn help_and_version_succeed() {
    let help = jola_train().args(["--help"]).succeed();
    // The program that users start, not the one that it starts.
    assert!(help.stdout.contains("Usage: jola-train "), "{help:#?}");
    assert!(!help.stdout.contains("jola-train-core"), "{help:#?}");
    let help = jola_train().args(["logits", "--help"]).succeed();
    assert!(help.stdout.contains("--tokens"));
    let version = jola_train().args(["--version"]).succeed().stdout;
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

/// What is wrong with the line itself, whatever the files hold.
#[test]
fn wrong_command_lines_exit_with_2() {
    let wrong = [
        "--no-such-flag",
        "-m base.gguf --data d",
        "-m base.gguf -o out",
        "-m base.gguf --data d -o out --steps 0",
        "-m base.gguf --data d -o out --lr -1",
        "-m base.gguf --data d -o out --method magic",
        "-m base.gguf --data d -o out --device toaster",
        "logits -m base.gguf -o out --tokens -1",
    ];
    for line in wrong {
        let args = line.split_whitespace();
        jola_train().args(args).fail(2, &["--help"]);
    }
    // Without anything: the help, as a failure.
    let bare = jola_train().run();
    assert_eq!(bare.code, Some(2), "{bare:#?}");
    assert!(bare.stderr.contains("Usage:"), "{bare:#?}");
}
