//! Command lines as they are typed. Ours are given to the real programs in an empty folder,
//! where every file is missing: a program that finds its line wrong says so by exit status 2,
//! before it looks for any file.

use std::path::Path;

use testkit::{program, repository, Cli, Folder};

use crate::programs::jola_train;

/// Words of the shell that stand before a command.
const KEYWORDS: [&str; 9] = [
    "do", "then", "else", "if", "while", "{", "(", "time", "sudo",
];
/// Programs that are given a script.
const INTERPRETERS: [&str; 4] = ["python", "python3", "node", "bash"];

/// Checks a block of command lines.
pub fn check(block: &str) -> Result<(), String> {
    for line in lines(block)? {
        for command in line.split(|word| is_operator(word)) {
            check_command(command)?;
        }
    }
    Ok(())
}

/// The words of each line. A line goes on after a backslash and inside quotes.
fn lines(block: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut lines, mut text) = (Vec::new(), String::new());
    for line in block.lines() {
        text.push_str(line);
        if text.ends_with('\\') {
            text.pop();
            continue;
        }
        match shlex::split(&text) {
            Some(words) => {
                lines.push(separated(words));
                text.clear();
            }
            None => text.push('\n'),
        }
    }
    match text.is_empty() {
        true => Ok(lines),
        false => Err(format!("a quote or a line does not end: {text}")),
    }
}

/// The words, with a semicolon at the end of a word as a word of its own.
fn separated(words: Vec<String>) -> Vec<String> {
    let split = words
        .into_iter()
        .flat_map(|word| match word.strip_suffix(';') {
            Some(rest) => vec![rest.to_owned(), ";".to_owned()],
            None => vec![word],
        });
    split.filter(|word| !word.is_empty()).collect()
}

fn is_operator(word: &str) -> bool {
    matches!(word, "|" | "||" | "&&" | ";" | "&") || word.starts_with('>') || word.starts_with("2>")
}

fn check_command(words: &[String]) -> Result<(), String> {
    let before = |word: &&String| {
        let assignment = word
            .split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        assignment || KEYWORDS.contains(&word.as_str())
    };
    let skipped = words.iter().take_while(before).count();
    let Some((program, args)) = words[skipped..].split_first() else {
        return Ok(());
    };
    let name = Path::new(program).file_name().unwrap_or_default();
    match name.to_str().unwrap_or_default() {
        "llama-jola" => {
            // What `with` starts is a command as well.
            if let Some(end) = args.iter().position(|word| word == "--") {
                check_command(&args[end + 1..])?;
            }
            accepted(Cli::new(&self::program("llama-jola")), args)
        }
        "jola-train" => accepted(jola_train(), args),
        "make" => args.iter().try_for_each(|word| target(word)),
        name if INTERPRETERS.contains(&name) => match args.first() {
            Some(script) if script.contains('/') => exists(script),
            _ => Ok(()),
        },
        _ if program.contains('/') => exists(program),
        _ => Ok(()),
    }
}

/// That a program understands its line, whatever the files hold.
fn accepted(cli: Cli, args: &[String]) -> Result<(), String> {
    let folder = Folder::new();
    let finished = cli.args(args).current_dir(folder.root()).run();
    match finished.code {
        Some(0 | 1) => Ok(()),
        _ => Err(format!("{}\n{}", finished.line, finished.stderr)),
    }
}

/// That the Makefile has a target. Options and variables are make's own.
fn target(word: &str) -> Result<(), String> {
    if word.starts_with('-') || word.contains('=') {
        return Ok(());
    }
    let makefile = std::fs::read_to_string(repository("Makefile")).expect("the Makefile");
    let start = format!("{word}:");
    match makefile.lines().any(|line| line.starts_with(&start)) {
        true => Ok(()),
        false => Err(format!("make {word}: no such target")),
    }
}

/// That a file of the repository is there. Paths from elsewhere say nothing.
fn exists(path: &str) -> Result<(), String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let (folder, _) = path.split_once('/').unwrap_or((path, ""));
    let ours = !folder.is_empty() && folder != "target" && repository(folder).is_dir();
    match !ours || repository(path).exists() {
        true => Ok(()),
        false => Err(format!("{path}: no such file")),
    }
}

#[test]
fn a_line_is_refused_for_a_flag_a_value_or_a_name() {
    let train = "jola-train -m base.gguf --data train.jsonl -o edit.gguf";
    check(&format!("{train} \\\n    --steps 5 # short\n")).unwrap();
    check("llama-jola run -m base.gguf -p 'two\nlines' -n 8 | head; make test").unwrap();
    check("X=1 llama-jola with edit.gguf -- llama-server -m base.gguf &").unwrap();
    for wrong in [
        &format!("{train} --stepps 5"),
        &format!("{train} --steps many"),
        "llama-jola rnu -m base.gguf",
        "llama-jola run -p Hello",
        "ls && make tset",
        "llama-jola with edit.gguf -- make tset",
        "scripts/no-such.sh",
        "python scripts/no-such.py",
        "echo 'endless",
    ] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
}
