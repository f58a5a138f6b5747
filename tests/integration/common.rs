//! Where things are, how the real executables are run, and random numbers.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

/// Threads of every command: the tests are meant for two cores.
const THREADS: &str = "2";

/// The base model, SmolLM2-135M-Instruct Q4_1.
pub fn base_model() -> PathBuf {
    let path = PathBuf::from(variable("JOLA_TEST_MODEL"));
    assert!(
        path.is_file(),
        "{} (JOLA_TEST_MODEL) is missing: run `make test`, it downloads the model",
        path.display()
    );
    path
}

/// Where slow results are kept between runs.
pub fn cache() -> PathBuf {
    let path = PathBuf::from(variable("JOLA_TEST_CACHE"));
    std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run `make test`, or `. scripts/env.sh`"))
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The path of the trainer's executable, which lies beside that of `llama-jola`.
pub fn jola_train_path() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_llama-jola")).with_file_name("jola-train");
    assert!(
        path.is_file(),
        "{} is missing: run `make test`, it builds all executables",
        path.display()
    );
    path
}

/// A command line of `llama-jola COMMAND`.
pub fn llama_jola(command: &str) -> Cli {
    Cli::new(Path::new(env!("CARGO_BIN_EXE_llama-jola"))).args([command])
}

/// `llama-jola COMMAND -m MODEL` with the tests' number of threads.
pub fn llama_jola_on(command: &str, model: &Path) -> Cli {
    llama_jola(command)
        .args(["-t", THREADS, "-m"])
        .args([model])
}

/// A command line of `jola-train`.
pub fn jola_train() -> Cli {
    Cli::new(&jola_train_path())
}

/// `jola-train logits -m MODEL` with the tests' number of threads.
pub fn jola_train_logits(model: &Path) -> Cli {
    jola_train()
        .args(["logits", "-t", THREADS, "-m"])
        .args([model])
}

/// An executable with its arguments, about to be run.
pub struct Cli {
    command: Command,
}

impl Cli {
    /// Any executable; standard input is empty.
    pub fn new(program: &Path) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The command as it would be run.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end, whatever that is.
    pub fn run(mut self) -> Finished {
        let _alone = alone();
        let line = format!("{:?}", self.command);
        let output = self
            .command
            .output()
            .unwrap_or_else(|e| panic!("{line}: {e}"));
        let finished = Finished {
            line,
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        };
        assert!(
            !finished.stderr.contains("panicked at"),
            "it panicked: {finished:#?}"
        );
        finished
    }

    /// Runs it; it must succeed.
    pub fn succeed(self) -> Finished {
        let finished = self.run();
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        finished
    }

    /// Runs it; it must end with `code` and say each of `texts` on stderr, and nothing on
    /// stdout.
    pub fn fail(self, code: i32, texts: &[&str]) -> Finished {
        let finished = self.run();
        assert_eq!(finished.code, Some(code), "{finished:#?}");
        assert_eq!(finished.stdout, "", "{finished:#?}");
        assert!(
            finished.stderr.lines().any(|l| l.starts_with("error: ")),
            "{finished:#?}"
        );
        for text in texts {
            assert!(
                finished.stderr.contains(text),
                "no `{text}` in {finished:#?}"
            );
        }
        finished
    }
}

/// What a command did.
#[derive(Debug)]
#[allow(dead_code)] // `line` is there to be printed by failing tests
pub struct Finished {
    pub line: String,
    /// Exit status; none after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The JSON value on the last line of stdout.
    pub fn json(&self) -> serde_json::Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }
}

/// While the guard lives no other command runs: two programs with two threads each on two
/// cores take far longer than one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    // A test that failed meanwhile has left nothing half done.
    RUNNING.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// A folder that is removed at the end of the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in it.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// The names of all files in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the temporary folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// splitmix64 (Steele, Lea, Flood 2014), as in tests/golden/make.py.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of [-1, 1) from the top 24 bits: exact in 32-bit floats.
    pub fn signed(&mut self) -> f32 {
        const HALF: i64 = 1 << 23;
        let top = (self.next() >> 40) as i64;
        (top - HALF) as f32 / HALF as f32
    }
}

/// The path as the commands print it.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}
