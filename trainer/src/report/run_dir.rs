//! The run directory: configuration, metrics, pictures and, until the run is done, its
//! checkpoint.
//!
//! A run must not fail for want of a diary: what cannot be written is reported once and
//! tried again, and the last complete checkpoint stands.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jola_edit::output::{is_temporary, Output};
use serde::Serialize;

use super::checkpoint;
use super::run_config::RunConfig;
use super::run_files::{
    stage_file, CHECKPOINT, CONFIG, METRICS, PATH, PATH_TABLE, REFUSED, TEST, TEST_ROWS,
};
use crate::train::State;
use crate::train::{Event, StepRecord, ValidationRecord};
use crate::Error;

/// The directory of a run, held by one process at a time.
#[derive(Debug)]
pub struct RunDir {
    folder: PathBuf,
    config: RunConfig,
    metrics: File,
    /// Bytes of complete lines in the metrics file.
    written: u64,
    /// Lines that are not yet in it.
    pending: Vec<u8>,
    interval: Duration,
    saved: Instant,
    /// Steps of the last checkpoint.
    saved_step: Option<usize>,
}

/// The run directory of a sidecar: `edit.gguf` has `edit.run`.
pub fn default_folder(output: &Path) -> PathBuf {
    output.with_extension("run")
}

/// Refuses a directory that holds an unfinished run, which a new one would wipe out.
///
/// # Errors
/// [`Error::Unfinished`]; [`Error::Checkpoint`] for a checkpoint that cannot be read.
pub fn refuse_unfinished(folder: &Path) -> Result<(), Error> {
    let path = folder.join(CHECKPOINT);
    if !path.exists() {
        return Ok(());
    }
    let step = checkpoint::read(&path)?.state.counters.step;
    Err(Error::Unfinished {
        folder: folder.to_path_buf(),
        step,
    })
}

/// The seed by which the unfinished run in `folder` held rows back for validation, if there is
/// such a run: whoever continues it must not train on them, nor validate with what it has
/// trained on.
///
/// # Errors
/// [`Error::Checkpoint`] for a checkpoint that cannot be read.
pub fn split_seed(folder: &Path) -> Result<Option<u64>, Error> {
    let path = folder.join(CHECKPOINT);
    match path.exists() {
        true => Ok(checkpoint::read(&path)?.config.split_seed()),
        false => Ok(None),
    }
}

impl RunDir {
    /// Begins a run in `folder`, which is created where needed; files of an earlier run are
    /// replaced. A checkpoint is due every `interval`.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Busy`] while another process holds the directory.
    pub fn create(folder: &Path, config: RunConfig, interval: Duration) -> Result<RunDir, Error> {
        let mut run = RunDir::open(folder, config, interval)?;
        for name in [CHECKPOINT, REFUSED, TEST, TEST_ROWS] {
            remove(&folder.join(name))?;
        }
        remove_path(&folder.join(PATH))?;
        run.begin_at(0)?;
        Ok(run)
    }

    /// Continues the run in `folder` from its checkpoint. Where there is none, this is
    /// [`create`](Self::create). With `changes`, settings may differ.
    ///
    /// # Errors
    /// Those of [`create`](Self::create), of the checkpoint, and [`Error::Changed`] when it
    /// belongs to a run with other settings or data.
    pub fn resume(
        folder: &Path,
        config: RunConfig,
        interval: Duration,
        changes: bool,
    ) -> Result<(RunDir, Option<State>), Error> {
        let path = folder.join(CHECKPOINT);
        if !path.exists() {
            return Ok((RunDir::create(folder, config, interval)?, None));
        }
        let mut run = RunDir::open(folder, config, interval)?;
        let saved = checkpoint::read(&path)?;
        run.config.check(&saved.config, changes, folder)?;
        run.begin_at(saved.metrics_bytes)?;
        run.saved_step = Some(saved.state.counters.step);
        Ok((run, Some(saved.state)))
    }

    /// Locks the directory and tidies what a killed process left half-written.
    fn open(folder: &Path, config: RunConfig, interval: Duration) -> Result<RunDir, Error> {
        fs::create_dir_all(folder).map_err(writing(folder))?;
        let path = folder.join(METRICS);
        let metrics = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(writing(&path))?;
        if let Err(fs::TryLockError::WouldBlock) = metrics.try_lock() {
            return Err(Error::Busy {
                folder: folder.to_path_buf(),
            });
        }
        for entry in fs::read_dir(folder).map_err(writing(folder))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if is_temporary(&name) {
                remove(&entry.path())?;
            }
        }
        Ok(RunDir {
            folder: folder.to_path_buf(),
            config,
            metrics,
            written: 0,
            pending: Vec::new(),
            interval,
            saved: Instant::now(),
            saved_step: None,
        })
    }

    /// Writes the configuration, and cuts the metrics to their first `bytes`.
    fn begin_at(&mut self, bytes: u64) -> Result<(), Error> {
        let path = self.folder.join(CONFIG);
        let mut config = serde_json::to_vec_pretty(&self.config).expect("plain data");
        config.push(b'\n');
        // A run that continues has nothing new to write, and may have no room for it.
        if fs::read(&path).ok().as_ref() != Some(&config) {
            // Whether it is an input was asked before the work, as with the checkpoint.
            Output::without_inputs(&path)?.write(|out| out.write_all(&config))?;
        }
        let path = self.folder.join(METRICS);
        let length = self.metrics.metadata().map_err(writing(&path))?.len();
        self.written = bytes.min(length);
        self.truncate().map_err(writing(&path))
    }

    fn truncate(&mut self) -> io::Result<()> {
        self.metrics.set_len(self.written)?;
        self.metrics.seek(SeekFrom::Start(self.written)).map(drop)
    }

    /// Where the directory lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Steps of the last checkpoint, if there is one.
    pub fn saved_step(&self) -> Option<usize> {
        self.saved_step
    }

    /// Appends records of steps to the metrics.
    ///
    /// # Errors
    /// Those of the file system; the lines come with the next ones then.
    pub fn steps(&mut self, records: &[StepRecord]) -> io::Result<()> {
        records.iter().for_each(|record| self.line(record));
        self.flush()
    }

    /// Appends a validation to the metrics.
    ///
    /// # Errors
    /// Those of the file system; the line comes with the next ones then.
    pub fn validated(&mut self, record: &ValidationRecord) -> io::Result<()> {
        self.line(record);
        self.flush()
    }

    /// Appends what else was done to the metrics.
    ///
    /// # Errors
    /// Those of the file system; the line comes with the next ones then.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.line(event);
        self.flush()
    }

    fn line(&mut self, record: &impl Serialize) {
        serde_json::to_writer(&mut self.pending, record).expect("plain data");
        self.pending.push(b'\n');
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.metrics.write_all(&self.pending) {
            Ok(()) => {
                self.written += self.pending.len() as u64;
                self.pending.clear();
                Ok(())
            }
            Err(error) => {
                self.truncate()?; // no half line
                Err(error)
            }
        }
    }

    /// Whether it is time for a checkpoint.
    pub fn checkpoint_due(&self) -> bool {
        self.saved.elapsed() >= self.interval
    }

    /// Replaces the checkpoint by one of this state.
    ///
    /// # Errors
    /// Those of the file system; the last checkpoint stands then.
    pub fn checkpoint(&mut self, state: &State) -> io::Result<()> {
        self.saved = Instant::now();
        let output = Output::without_inputs(self.folder.join(CHECKPOINT));
        let output = output.map_err(|error| *error.kind)?;
        checkpoint::write(&output, &self.config, state, self.written)?;
        self.saved_step = Some(state.counters.step);
        Ok(())
    }

    /// The run is done and its result written: nothing is left to continue.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn finish(self) -> Result<(), Error> {
        remove(&self.folder.join(CHECKPOINT))
    }
}

/// Removes the stages of an earlier run, and their folder unless somebody keeps other files there.
fn remove_path(folder: &Path) -> Result<(), Error> {
    let stages = (0..).map(|stage| folder.join(stage_file(stage)));
    for stage in stages.take_while(|stage| stage.exists()) {
        remove(&stage)?;
    }
    remove(&folder.join(PATH_TABLE))?;
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(writing(path)(error)),
        _ => Ok(()),
    }
}

fn writing(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    |error| Error::Write {
        path: path.to_path_buf(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Counters;
    use crate::train::Validation;

    const NOW: Duration = Duration::ZERO;

    fn config(lr: f64) -> RunConfig {
        let mut config = RunConfig::default();
        config.set("lr", lr);
        config
    }

    fn validation(step: usize) -> ValidationRecord {
        ValidationRecord {
            step,
            validation: Validation {
                loss: 1.0,
                exact: 0.5,
            },
            best: true,
        }
    }

    fn state(step: usize) -> State {
        State {
            counters: Counters {
                step,
                ..Counters::default()
            },
            tensors: Vec::new(),
        }
    }

    fn metrics(folder: &Path) -> String {
        fs::read_to_string(folder.join(METRICS)).unwrap()
    }

    #[test]
    fn metrics_after_the_checkpoint_are_cut_when_a_run_continues() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("edit.run");
        let mut run = RunDir::create(&folder, config(0.1), NOW).unwrap();
        run.validated(&validation(1)).unwrap();
        let kept = metrics(&folder);
        run.checkpoint(&state(1)).unwrap();
        run.validated(&validation(2)).unwrap();
        assert!(metrics(&folder).len() > kept.len());
        drop(run);
        fs::write(folder.join(".jola-abc.tmp"), "half").unwrap();

        let refused = refuse_unfinished(&folder).unwrap_err().to_string();
        assert!(
            refused.contains("edit.run") && refused.contains("--resume"),
            "{refused}"
        );
        let changed = RunDir::resume(&folder, config(0.2), NOW, false).unwrap_err();
        assert!(
            changed.to_string().contains("lr was 0.1, is 0.2"),
            "{changed}"
        );
        let (run, state) = RunDir::resume(&folder, config(0.1), NOW, false).unwrap();
        assert_eq!(state.unwrap().counters.step, 1);
        assert_eq!(metrics(&folder), kept);
        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [CHECKPOINT, CONFIG, METRICS]);
        run.finish().unwrap();
        refuse_unfinished(&folder).unwrap();
    }

    #[test]
    fn a_new_run_takes_away_the_stages_of_the_one_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PATH);
        let files = [stage_file(0), stage_file(1), PATH_TABLE.to_owned()];
        for notes in [false, true] {
            fs::create_dir(&path).unwrap();
            for name in &files {
                fs::write(path.join(name), "of before").unwrap();
            }
            if notes {
                fs::write(path.join("notes.txt"), "mine").unwrap();
            }
            drop(RunDir::create(folder.path(), config(0.1), NOW).unwrap());
            assert!(files.iter().all(|name| !path.join(name).exists()));
            assert_eq!(path.join("notes.txt").exists(), notes);
            assert_eq!(path.exists(), notes);
        }
    }

    #[test]
    fn a_directory_belongs_to_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), config(0.1), NOW).unwrap();
        let second = RunDir::create(folder.path(), config(0.1), NOW).unwrap_err();
        assert!(matches!(second, Error::Busy { .. }), "{second}");
        drop(run);
        RunDir::create(folder.path(), config(0.1), NOW).unwrap();
    }
}
