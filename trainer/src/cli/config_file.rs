//! Options from a file, and the options of a run for one.
//!
//! A file becomes words of the command line before clap reads it: so an option means the same
//! in both places, and each rule about options is written once, where the option is.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value};

use crate::report::OPTIONS;

/// The option that names the file.
pub(super) const CONFIG: &str = "config";
/// What tells how a command is run, and not what it does.
const NOT_KEPT: [&str; 5] = [CONFIG, "resume", "allow_changes", "dry_run", "run_dir"];

/// Names of options, without dashes, and their values.
pub(crate) type Options = Map<String, Value>;

/// `args` with the options of the file that --config names in front. An option that was typed,
/// or one that excludes it, has the last word.
///
/// # Errors
/// The reason for which the file cannot be read; a usage error that names it: text that is no
/// TOML, a key that is no option, a value that the option does not take.
pub(super) fn expand(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>> {
    let args: Vec<OsString> = args.into_iter().collect();
    // What is wrong with the line itself is said when all of it is read.
    let lenient = command.clone().ignore_errors(true);
    let Ok(typed) = lenient.try_get_matches_from(&args) else {
        return Ok(args);
    };
    let Some(path) = typed.get_one::<PathBuf>(CONFIG) else {
        return Ok(args);
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot read it", path.display()))?;
    let usage = |kind, text: String| {
        let text = format!("{}: {text}", path.display());
        command.clone().error(kind, text)
    };
    let options = parse(&text).map_err(|text| usage(ErrorKind::InvalidValue, text))?;
    let mut words = Vec::new();
    for (key, value) in &options {
        let option = find(command, key).map_err(|text| usage(ErrorKind::UnknownArgument, text))?;
        if overruled(command, option, &typed) {
            continue;
        }
        let Some(word) = word(option, value)
            .map_err(|text| usage(ErrorKind::InvalidValue, format!("{key}: {text}")))?
        else {
            continue;
        };
        check(command, &args, &word).map_err(|text| usage(ErrorKind::ValueValidation, text))?;
        words.push(word);
    }
    let at = args.len().min(1);
    let mut all = args;
    all.splice(at..at, words);
    Ok(all)
}

/// The options that a command was given, on the line or by a file, as [`expand`] reads them.
pub(super) fn given(command: &Command, matches: &ArgMatches) -> Options {
    let mut options = Options::new();
    for option in command.get_arguments() {
        let id = option.get_id().as_str();
        let Some(long) = option.get_long() else {
            continue;
        };
        let typed = matches.value_source(id) == Some(ValueSource::CommandLine);
        if !typed || NOT_KEPT.contains(&id) {
            continue;
        }
        let value = if takes_value(option) {
            let words = matches.get_raw(id).into_iter().flatten();
            let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
            Value::String(words.join(","))
        } else {
            Value::Bool(true)
        };
        options.insert(long.to_owned(), value);
    }
    options
}

/// The names and values in a file: TOML, JSON, or the configuration that a run left.
fn parse(text: &str) -> Result<Options, String> {
    if !text.trim_start().starts_with('{') {
        let parsed: Result<Options, _> = toml::from_str(text);
        return parsed.map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = 1 + before.unwrap_or_default().matches('\n').count();
            format!("line {line}: {}", error.message())
        });
    }
    let mut options: Options = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match options.remove(OPTIONS) {
        Some(Value::Object(own)) => Ok(own),
        Some(_) => Err(format!("`{OPTIONS}` is no table")),
        None if options.contains_key("base_sha256") => Err(format!(
            "this run noted no `{OPTIONS}`: write those that it was given into a TOML file"
        )),
        None => Ok(options),
    }
}

/// The option of a name in a file; words of it may be joined by `_` as well.
fn find<'a>(command: &'a Command, key: &str) -> Result<&'a Arg, String> {
    let name = key.replace('_', "-");
    let longs = || command.get_arguments().filter(|option| in_file(option));
    if let Some(found) = longs().find(|option| option.get_long() == Some(&name)) {
        return Ok(found);
    }
    let distance = |option: &&Arg| strsim::damerau_levenshtein(option.get_long().unwrap(), &name);
    let nearest = longs().min_by_key(distance).and_then(Arg::get_long);
    let nearest = nearest.unwrap_or_default();
    Err(format!(
        "no option is called `{key}`; the nearest is `{nearest}`"
    ))
}

/// Whether a file may hold the option.
fn in_file(option: &Arg) -> bool {
    let apart = [CONFIG, "help", "version"];
    option.get_long().is_some() && !apart.contains(&option.get_id().as_str())
}

/// Whether the option, or one that excludes it, was typed.
fn overruled(command: &Command, option: &Arg, typed: &ArgMatches) -> bool {
    let by = |option: &Arg| {
        let id = option.get_id().as_str();
        typed.value_source(id) == Some(ValueSource::CommandLine)
    };
    let excludes = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).contains(&b);
    let mut others = command.get_arguments().filter(|other| by(other));
    by(option) || others.any(|other| excludes(option, other) || excludes(other, option))
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// The word of the command line that says this; none for a switch that is off.
fn word(option: &Arg, value: &Value) -> Result<Option<OsString>, String> {
    let name = option.get_long().unwrap_or_default();
    if !takes_value(option) {
        return match value {
            Value::Bool(on) => Ok(on.then(|| format!("--{name}").into())),
            _ => Err(format!("expected true or false, found {value}")),
        };
    }
    let text = match value {
        Value::Array(items) => items
            .iter()
            .map(scalar)
            .collect::<Result<Vec<_>, _>>()?
            .join(","),
        value => scalar(value)?,
    };
    Ok(Some(format!("--{name}={text}").into()))
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("expected a text or a number, found {value}")),
    }
}

/// Whether the option takes the value, whatever else the line says.
fn check(command: &Command, args: &[OsString], word: &OsString) -> Result<(), String> {
    let alone = command.clone().mut_args(|option| option.required(false));
    let program = args.first().cloned().unwrap_or_default();
    match alone.try_get_matches_from([program, word.clone()]) {
        Err(error)
            if error.kind() == ErrorKind::ValueValidation
                || error.kind() == ErrorKind::InvalidValue =>
        {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            Err(line.trim_start_matches("error: ").to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// The line that a file makes of `words`, or the first line of the error.
    fn line(file: &str, text: &str, words: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        let words = format!("jola-train {words} --config");
        let words = words.split_whitespace().map(OsString::from);
        let command = Cli::command();
        let config = path.to_str().unwrap();
        let expanded = expand(&command, words.chain([config.into()]));
        let expanded = expanded.map_err(|error| {
            let error = error.downcast::<clap::Error>().unwrap();
            assert_eq!(error.exit_code(), 2);
            error
                .render()
                .to_string()
                .lines()
                .next()
                .unwrap()
                .replace(config, file)
        })?;
        let words: Vec<_> = expanded.iter().map(|word| word.to_string_lossy()).collect();
        Ok(words.join(" ").replace(config, file))
    }

    const FILE: &str = r#"
        model = "base.gguf"
        epochs = 3
        lr = 0.1
        sparsity = [0.9, 0.85]
        valid_share = 0.25
        chat = true
        resume = false
    "#;

    #[test]
    fn a_file_becomes_words_and_typed_ones_win() {
        let all = "--chat --epochs=3 --lr=0.1 --model=base.gguf --sparsity=0.9,0.85 \
                   --valid-share=0.25";
        let expanded = line("run.toml", FILE, "-o edit.gguf").unwrap();
        assert_eq!(
            expanded,
            format!("jola-train {all} -o edit.gguf --config run.toml")
        );
        // The same option, and those that exclude one in the file.
        let typed = "--lr auto --steps 9 --valid v.jsonl --lambda 0.1";
        let expanded = line("run.toml", FILE, typed).unwrap();
        let expected = "jola-train --chat --model=base.gguf";
        assert_eq!(expanded, format!("{expected} {typed} --config run.toml"));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let error = |text| line("run.toml", text, "").unwrap_err();
        assert_eq!(
            error("epoch = 3"),
            "error: run.toml: no option is called `epoch`; the nearest is `epochs`"
        );
        for (text, said) in [
            (
                "lr = 'fast'",
                "error: run.toml: invalid value 'fast' for '--lr <auto|X>'",
            ),
            (
                "method = 'magic'",
                "error: run.toml: invalid value 'magic' for '--method",
            ),
            (
                "chat = 1",
                "error: run.toml: chat: expected true or false, found 1",
            ),
            (
                "[lr]\nx = 1",
                "error: run.toml: lr: expected a text or a number",
            ),
            ("lr = 1\nlr = 2", "error: run.toml: line 2: "),
            (
                "config = 'b.toml'",
                "error: run.toml: no option is called `config`",
            ),
        ] {
            let found = error(text);
            assert!(found.starts_with(said), "{found}");
        }
        let expanded = expand(
            &Cli::command(),
            ["jola-train", "--config", "gone.toml"].map(OsString::from),
        );
        let text = format!("{:#}", expanded.unwrap_err());
        assert!(text.starts_with("gone.toml: cannot read it: "), "{text}");
    }

    #[test]
    fn an_earlier_run_is_a_file_of_options() {
        let command = Cli::command();
        let typed = "jola-train -m b.gguf --data d.jsonl -o e.gguf --lora-targets attn_q,attn_v \
                     --chat --run-dir r --lr 0.1";
        let matches = command.clone().get_matches_from(typed.split_whitespace());
        let options = given(&command, &matches);
        let text = serde_json::json!({ "base_sha256": "a", OPTIONS: options }).to_string();
        let words: Vec<_> = "--model=b.gguf --data=d.jsonl --output=e.gguf --lr=0.1 --chat \
                             --lora-targets=attn_q,attn_v"
            .split_whitespace()
            .collect();
        let expanded = line("config.json", &text, "").unwrap();
        let mut found: Vec<_> = expanded.split(' ').collect();
        assert_eq!(found.remove(0), "jola-train");
        found.truncate(words.len());
        let sorted = |mut words: Vec<&str>| {
            words.sort_unstable();
            words.join(" ")
        };
        assert_eq!(sorted(found), sorted(words));
        let error = line("config.json", r#"{"base_sha256": "a"}"#, "").unwrap_err();
        assert!(error.contains("noted no `options`"), "{error}");
    }
}
