//! Man pages and completions, which are made from the same description as the help.

use testkit::{program, text, Cli, Folder};

use crate::programs::jola_train;

#[test]
fn both_programs_have_pages_and_completions() {
    for (cli, name, subcommand, option) in [
        (
            Cli::new(&program("llama-jola")),
            "llama-jola",
            "run",
            "--jola-scaled",
        ),
        (jola_train(), "jola-train", "logits", "--sparsity"),
    ] {
        let folder = Folder::new();
        let written = folder.path("manuals");
        cli.args(["manuals", text(&written)]).succeed();
        let read = |path: String| {
            let path = written.join(path);
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let page = read(format!("man/{name}.1"));
        assert!(page.contains(&format!(".TH {name} 1")), "{page}");
        let page = read(format!("man/{name}-{subcommand}.1"));
        let usage = format!("\\fB{name} {subcommand}\\fR");
        assert!(page.contains(&usage.replace('-', "\\-")), "{page}");
        for file in [
            format!("{name}.bash"),
            format!("_{name}"),
            format!("{name}.fish"),
        ] {
            let script = read(format!("completions/{file}"));
            assert!(script.contains(name), "{file}: {script}");
            assert!(
                script.contains(option.trim_start_matches('-')),
                "{file}: {script}"
            );
            for hidden in ["jola-train-core", "manuals"] {
                assert!(!script.contains(hidden), "{file}: {script}");
            }
        }
    }
}
