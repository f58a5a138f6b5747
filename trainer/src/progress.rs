//! What the user sees while training: a bar on a terminal, else a line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::train::{Observer, Progress};

const BAR_INTERVAL: Duration = Duration::from_millis(250);
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Reports on stderr.
pub struct Reporter {
    bar: Option<ProgressBar>,
    interval: Duration,
    last: Instant,
}

impl Reporter {
    /// For a run of `steps` steps.
    pub fn new(steps: usize) -> Reporter {
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let style = ProgressStyle::with_template("{bar:28} {pos}/{len} {msg} · {eta} left");
            let bar = ProgressBar::new(steps as u64);
            bar.set_style(style.expect("a valid template"));
            bar
        });
        let interval = if terminal {
            BAR_INTERVAL
        } else {
            LINE_INTERVAL
        };
        Reporter {
            bar,
            interval,
            last: Instant::now(),
        }
    }
}

impl Observer for Reporter {
    fn due(&mut self) -> bool {
        self.last.elapsed() >= self.interval
    }

    fn progress(&mut self, progress: &Progress) {
        self.last = Instant::now();
        let Progress {
            step,
            steps,
            phase,
            loss,
            lambda,
            open,
            gates,
            tokens_per_second,
        } = progress;
        let text = format!(
            "{:6} loss {loss:.4} · λ {lambda:.1e} · {open}/{gates} gates open · {tokens_per_second:.0} tokens/s",
            phase.name()
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(*step as u64);
                bar.set_message(text);
                if step == steps {
                    bar.finish();
                }
            }
            None => eprintln!("step {step}/{steps} {text}"),
        }
    }

    fn log(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}
