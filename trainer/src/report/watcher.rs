//! Watches a run for its user and for its directory.

use std::io;

use super::progress::Reporter;
use super::run_dir::RunDir;
use crate::train::State;
use crate::train::{Event, Observer, StepRecord, ValidationRecord};

/// Passes everything on to both.
pub(crate) struct Watcher {
    pub reporter: Reporter,
    pub run_dir: RunDir,
    /// What was complained of; it is not repeated.
    complaints: Vec<String>,
}

impl Watcher {
    pub fn new(reporter: Reporter, run_dir: RunDir) -> Watcher {
        Watcher {
            reporter,
            run_dir,
            complaints: Vec::new(),
        }
    }

    fn tell(&mut self, what: &str, result: io::Result<()>) {
        let Err(error) = result else { return };
        let folder = self.run_dir.folder().display();
        let complaint = format!("{folder}: cannot write {what}: {error}; the run goes on");
        if !self.complaints.contains(&complaint) {
            self.reporter.log(&complaint);
            self.complaints.push(complaint);
        }
    }
}

impl Observer for Watcher {
    fn due(&mut self) -> bool {
        self.reporter.due()
    }

    fn steps(&mut self, records: &[StepRecord]) {
        self.reporter.steps(records);
        let result = self.run_dir.steps(records);
        self.tell("metrics", result);
    }

    fn validated(&mut self, record: &ValidationRecord) {
        self.reporter.validated(record);
        let result = self.run_dir.validated(record);
        self.tell("metrics", result);
    }

    fn event(&mut self, event: &Event) {
        self.reporter.event(event);
        let result = self.run_dir.event(event);
        self.tell("metrics", result);
    }

    fn log(&mut self, line: &str) {
        self.reporter.log(line);
    }

    fn checkpoint_due(&mut self) -> bool {
        self.run_dir.checkpoint_due()
    }

    fn checkpoint(&mut self, state: &State) {
        let result = self.run_dir.checkpoint(state);
        self.tell("a checkpoint, the last one stands", result);
    }
}
