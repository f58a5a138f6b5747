//! The programs that cargo built, which lie beside the tests' own executable. A program that
//! is missing, or older than its source, fails the test: what it did would say nothing about
//! the source at hand.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::Cli;

/// Threads of every program: the tests are meant for two cores.
pub const THREADS: &str = "2";

/// A command line of `llama-jola COMMAND`.
pub fn llama_jola(command: &str) -> Cli {
    Cli::new(&program("llama-jola")).args([command])
}

/// `llama-jola COMMAND -m MODEL` with the tests' number of threads.
pub fn llama_jola_on(command: &str, model: &Path) -> Cli {
    llama_jola(command)
        .args(["-t", THREADS, "-m"])
        .args([model])
}

/// The executable of a program of this workspace.
pub fn program(name: &str) -> PathBuf {
    let path = built(name);
    assert_current(&path);
    path
}

/// The executable of an example of this workspace.
pub fn example(name: &str) -> PathBuf {
    program(&format!("examples/{name}"))
}

/// A file that cargo built, by its path in `target/release`.
pub fn built(name: &str) -> PathBuf {
    // target/release/deps/TEST
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/release");
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `make test`, which builds all programs and examples first",
        path.display()
    );
    path
}

/// Compares with the sources that cargo lists in the `.d` file beside the program.
fn assert_current(program: &Path) {
    let list = program.with_extension("d");
    let text = std::fs::read_to_string(&list).unwrap_or_else(|e| panic!("{}: {e}", list.display()));
    let (_, sources) = text.split_once(": ").expect("TARGET: SOURCES");
    let built = modified(program).expect("the program is there");
    for source in paths(sources.trim_end()) {
        let current = modified(&source).is_some_and(|changed| changed <= built);
        assert!(
            current,
            "{} is older than {}: run `make test`, which builds all programs first",
            program.display(),
            source.display()
        );
    }
}

/// The paths of a list in make's syntax, where a space in a name follows a backslash.
fn paths(list: &str) -> impl Iterator<Item = PathBuf> {
    let list = list.replace("\\ ", "\0");
    let names: Vec<PathBuf> = list
        .split(' ')
        .map(|name| name.replace('\0', " ").into())
        .collect();
    names.into_iter()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::{assert_current, paths};
    use crate::Folder;

    #[test]
    fn a_space_in_a_name_is_part_of_it() {
        let found: Vec<_> = paths("/a/b.rs /my\\ code/c.rs").collect();
        assert_eq!(
            found,
            ["/a/b.rs", "/my code/c.rs"].map(std::path::PathBuf::from)
        );
    }

    #[test]
    fn a_program_older_than_its_source_is_refused() {
        let folder = Folder::new();
        let source = folder.file("main.rs", "");
        let program = folder.file("program", "");
        let line = format!("{}: {}\n", program.display(), source.display());
        folder.file("program.d", line);
        assert_current(&program);
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        let changed = std::fs::File::options().write(true).open(&source).unwrap();
        changed.set_modified(later).unwrap();
        let refused = || std::panic::catch_unwind(|| assert_current(&program)).unwrap_err();
        let said = refused().downcast::<String>().unwrap();
        assert!(said.contains("is older than"), "{said}");
        // A source that is gone was renamed since.
        std::fs::remove_file(&source).unwrap();
        refused();
    }
}
