//! What the user sees while training: a bar on a terminal, else a line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::train::{Event, Observer, StageResult, StepRecord, ValidationRecord};

const BAR_INTERVAL: Duration = Duration::from_millis(250);
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Reports on stderr.
pub struct Reporter {
    steps: usize,
    gates: usize,
    bar: Option<ProgressBar>,
    interval: Duration,
    last: Instant,
    /// Losses since the last report.
    losses: Vec<f64>,
    /// Divergences from the unedited model since the last report.
    divergences: Vec<f64>,
}

impl Reporter {
    /// For a run of `steps` steps that trains `gates` gates and has done `done` steps.
    pub fn new(steps: usize, gates: usize, done: usize) -> Reporter {
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let style = ProgressStyle::with_template("{bar:28} {pos}/{len} {msg} · {eta} left");
            let bar = ProgressBar::new(steps as u64).with_position(done as u64);
            bar.set_style(style.expect("a valid template"));
            bar.reset_eta();
            bar
        });
        let interval = if terminal {
            BAR_INTERVAL
        } else {
            LINE_INTERVAL
        };
        Reporter {
            steps,
            gates,
            bar,
            interval,
            last: Instant::now(),
            losses: Vec::new(),
            divergences: Vec::new(),
        }
    }

    fn report(&mut self, last: &StepRecord) {
        let (step, steps, gates) = (last.step, self.steps, self.gates);
        self.last = Instant::now();
        let mut text = format!("{:6} ", last.phase.name());
        for (name, values) in [("loss", &mut self.losses), ("KL", &mut self.divergences)] {
            if !values.is_empty() {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                text += &format!("{name} {mean:.4} · ");
                values.clear();
            }
        }
        if gates > 0 {
            let open = last.n_open();
            text += &format!("λ {:.1e} · {open}/{gates} gates open · ", last.lambda);
        }
        text += &format!("{:.0} tokens/s", last.tokens_per_second);
        match &self.bar {
            Some(bar) => {
                bar.set_position(step as u64);
                bar.set_message(text);
                if step == steps {
                    bar.finish();
                }
            }
            None => eprintln!("step {step}/{steps} {text}"),
        }
    }
}

impl Observer for Reporter {
    fn due(&mut self) -> bool {
        self.last.elapsed() >= self.interval
    }

    fn steps(&mut self, records: &[StepRecord]) {
        self.losses.extend(records.iter().map(|record| record.loss));
        self.divergences
            .extend(records.iter().filter_map(|record| record.kl));
        if let Some(last) = records.last() {
            if self.due() || last.step == self.steps {
                self.report(last);
            }
        }
    }

    fn validated(&mut self, record: &ValidationRecord) {
        self.log(&format!(
            "step {}: validation {}",
            record.step, record.validation
        ));
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Unedited(unedited) => {
                self.log(&format!("unedited: validation {}", unedited.result));
            }
            Event::Trial(trial) => {
                let mut loss = match trial.loss {
                    Some(loss) => format!("validation loss {loss:.4}"),
                    None => "a loss that is no number".to_owned(),
                };
                if let Some(choice) = trial.choice {
                    loss += &format!(", {:.1} % chosen right", choice * 100.0);
                }
                self.log(&format!("learning rate {}: {loss}", trial.rate));
            }
            Event::Restart { rate } => {
                self.losses.clear();
                self.divergences.clear();
                if let Some(bar) = &self.bar {
                    bar.set_position(0);
                    bar.reset_eta();
                }
                self.log(&format!("starting over at a learning rate of {rate}"));
            }
            Event::Stage {
                result:
                    Some(
                        result @ StageResult {
                            choice: Some(_), ..
                        },
                    ),
                ..
            } => self.log(&format!("the best of these: {result}")),
            Event::Stage { .. } => {}
        }
    }

    fn log(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}
