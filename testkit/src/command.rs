//! How programs are run.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

/// An executable with its arguments, about to be run.
pub struct Cli {
    command: Command,
}

/// What in the environment would put an edit or a library into every program that a test runs.
const INHERITED: [&str; 3] = ["LLAMA_JOLA", "LLAMA_JOLA_LOG", "LD_PRELOAD"];

/// Any executable, with nothing on its standard input and no edits of the caller's.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for name in INHERITED {
        command.env_remove(name);
    }
    command
}

impl Cli {
    /// As [`command`].
    pub fn new(program: &Path) -> Self {
        Self {
            command: command(program),
        }
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

    /// Sets the folder that it runs in.
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
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
pub struct Finished {
    /// The command line, for the texts of failing tests.
    pub line: String,
    /// Exit status; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
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

#[cfg(test)]
mod tests {
    use super::{Cli, INHERITED};

    #[test]
    fn no_program_inherits_an_edit() {
        let command = Cli::new("/bin/true".as_ref()).into_command();
        let removed = command.get_envs().filter(|(_, value)| value.is_none());
        let removed: Vec<_> = removed.map(|(name, _)| name.to_str().unwrap()).collect();
        let mut all = INHERITED;
        all.sort_unstable();
        assert_eq!(removed, all);
    }
}
