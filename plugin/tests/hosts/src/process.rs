//! Processes that never outlive the test, whatever ends it.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};

/// A child process with its output in a file; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts `command`, with stderr (and stdout, unless it is piped) going to the file `log`.
    pub fn start(mut command: Command, name: &str, log: &Path, pipe: bool) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        if pipe {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(file.try_clone()?);
        }
        command.stderr(file);
        // SAFETY: prctl is safe between fork and exec. The kernel kills the child when the
        // thread that started it ends, even if this process is killed itself; every
        // process here is started by the main thread.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            })
        };
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}: {:?}", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `ready` returns true.
    ///
    /// # Errors
    /// When the process ends before that, or `limit` passes.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.ended()? {
                bail!(
                    "{} ended with {status}:\n{}",
                    self.name,
                    tail(&self.output())
                );
            }
            if start.elapsed() > limit {
                bail!(
                    "{} is not ready after {limit:?}:\n{}",
                    self.name,
                    tail(&self.output())
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!(
                    "{} is still running after {limit:?}:\n{}",
                    self.name,
                    tail(&self.output())
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The last lines of a log, for error messages.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
