//! Code blocks, by language. A block in Rust, C, Python or JavaScript is a part of an example
//! that is compiled or run as a whole; a command line is one that the programs take.

use std::path::{Path, PathBuf};

use testkit::repository;

use super::commands;
use super::markdown::{pages, At, Block};

/// Where blocks of a language come from: folders, and the ending of the files in them.
const EXAMPLES: [(&str, &[&str], &str); 4] = [
    ("rust", &["examples"], "rs"),
    ("c", &["examples/c"], "c"),
    ("python", &["examples/python"], "py"),
    ("js", &["examples/node"], "mjs"),
];

/// What is shown and not typed: output, layouts, synopses.
const SHOWN: [&str; 2] = ["text", "diff"];

#[test]
fn every_block_can_be_used_as_it_stands() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for page in pages().iter().filter(|page| !page.is_record()) {
        for At { line, what } in &page.blocks {
            checked += 1;
            if let Err(why) = check(what) {
                wrong.push(format!("{}: {why}", page.place(*line)));
            }
        }
    }
    assert!(checked > 5, "only {checked} blocks were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(block: &Block) -> Result<(), String> {
    let language = block.language.as_deref();
    let language = language.ok_or("indented code says no language: use a fence")?;
    if let Some((_, folders, ending)) = EXAMPLES.iter().find(|(name, ..)| *name == language) {
        return quoted(&block.text, folders, ending);
    }
    match language {
        "sh" => commands::check(&block.text),
        "json" => json(&block.text),
        "toml" => match toml::from_str::<serde_json::Value>(&block.text) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("TOML: {}", error.message())),
        },
        _ if SHOWN.contains(&language) => Ok(()),
        _ => Err(format!(
            "`{language}` is no language that this test knows how to check"
        )),
    }
}

/// One JSON value, or one in each line.
fn json(text: &str) -> Result<(), String> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let values: Result<Vec<_>, _> = values.collect();
    match values.map_err(|e| format!("JSON: {e}"))?.len() {
        0 => Err("no JSON value".into()),
        _ => Ok(()),
    }
}

/// Whether the lines stand so, one after the other, in an example. They may be indented less.
fn quoted(text: &str, folders: &[&str], ending: &str) -> Result<(), String> {
    let wanted = plain(&text.trim_end().lines().collect::<Vec<_>>());
    let files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| files(&repository(folder), ending))
        .collect();
    let found = files.iter().any(|file| {
        let example = std::fs::read_to_string(file).expect("an example");
        let lines: Vec<&str> = example.lines().collect();
        lines
            .windows(wanted.len())
            .any(|part| plain(part) == wanted)
    });
    match found {
        true => Ok(()),
        false => Err(format!(
            "the lines stand in no {}/*.{ending}",
            folders.join(" or ")
        )),
    }
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect()
}

/// The lines without what all of them are indented by, and without spaces at their ends.
fn plain(lines: &[&str]) -> Vec<String> {
    let full = lines.iter().filter(|line| !line.trim().is_empty());
    let indent = full.map(|line| line.len() - line.trim_start().len()).min();
    lines
        .iter()
        .map(|line| {
            line.get(indent.unwrap_or(0)..)
                .unwrap_or("")
                .trim_end()
                .to_owned()
        })
        .collect()
}

#[test]
fn a_quotation_is_recognised() {
    let quote = |text| quoted(text, &["examples/c"], "c");
    quote(
        "if (jola_set_edits(ctx, edits, 1) != JOLA_STATUS_OK) {\n    fail(jola_last_error());\n}\n",
    )
    .unwrap();
    quote("jola_set_edits(ctx, edits, 1);\n").unwrap_err();
    json("{\"a\": 1}\n{\"b\": 2}\n").unwrap();
    json("{a: 1}").unwrap_err();
}
