//! Man pages and completions, which are made from the same description as the help.

use super::llama_jola;
use crate::common::{jola_train, text, Folder};

#[test]
fn both_programs_have_pages_and_completions() {
    for (cli, program, subcommand, option) in [
        (llama_jola(), "llama-jola", "run", "--jola-scaled"),
        (jola_train(), "jola-train", "logits", "--sparsity"),
    ] {
        let folder = Folder::new();
        let written = folder.path("manuals");
        cli.args(["manuals", text(&written)]).succeed();
        let read = |path: String| {
            let path = written.join(path);
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let page = read(format!("man/{program}.1"));
        assert!(page.contains(&format!(".TH {program} 1")), "{page}");
        let page = read(format!("man/{program}-{subcommand}.1"));
        let usage = format!("\\fB{program} {subcommand}\\fR");
        assert!(page.contains(&usage.replace('-', "\\-")), "{page}");
        for file in [
            format!("{program}.bash"),
            format!("_{program}"),
            format!("{program}.fish"),
        ] {
            let script = read(format!("completions/{file}"));
            assert!(script.contains(program), "{file}: {script}");
            assert!(
                script.contains(option.trim_start_matches('-')),
                "{file}: {script}"
            );
            assert!(!script.contains("jola-train-core"), "{file}: {script}");
        }
    }
    let help = jola_train().args(["--help"]).succeed().stdout;
    assert!(help.contains("Usage: jola-train "), "{help}");
    assert!(!help.contains("jola-train-core"), "{help}");
}
