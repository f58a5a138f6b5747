//! Options of the run directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::config_file::Options;
use crate::report::run_dir;
use crate::report::run_files;
use crate::report::{RunConfig, RunDir};
use crate::train::State;
use crate::Error;

/// Where a run is written down, and how it goes on after a break.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run directory")]
pub(crate) struct RunArgs {
    /// Folder for config.json (all settings, versions and digests), metrics.jsonl (one line
    /// per step and validation), pictures of both (loss.svg, gates.svg) and, until the run is
    /// done, its checkpoint [default: the output with .run in place of .gguf].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Continue the run in the run directory where its last checkpoint stands; where there
    /// is none, start it. The result is that of a run in one go, byte for byte on a CPU.
    #[arg(long)]
    resume: bool,
    /// With --resume: go on although settings have changed, such as --lr after a loss that
    /// is no number. Base, data and method must be the same; the rows held back for validation
    /// stay the same, whatever --seed says.
    #[arg(long, requires = "resume")]
    allow_changes: bool,
    /// Seconds from one checkpoint to the next; 0: after every step.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    checkpoint_every: u64,
    /// Everything that was asked for, for the run's configuration.
    #[arg(skip)]
    pub(super) options: Options,
}

impl RunArgs {
    /// The run directory of a run that reads `inputs` and writes `output`; one that holds an
    /// unfinished run is refused unless it is to be continued, and one with other files always.
    pub fn folder(&self, output: &Path, inputs: &[PathBuf]) -> Result<PathBuf, Error> {
        let folder = match &self.run_dir {
            Some(folder) => folder.clone(),
            // A device or a pipe.
            None if output.exists() && !output.is_file() => {
                return Err(Error::NoPlaceForRun {
                    output: output.to_path_buf(),
                });
            }
            None => run_dir::default_folder(output),
        };
        run_files::check(&folder, output, inputs)?;
        if !self.resume {
            run_dir::refuse_unfinished(&folder)?;
        }
        Ok(folder)
    }

    /// The seed by which the run that is continued in `folder` held rows back.
    pub fn split_seed(&self, folder: &Path) -> Result<Option<u64>, Error> {
        match self.resume {
            true => run_dir::split_seed(folder),
            false => Ok(None),
        }
    }

    /// Begins or continues the run in `folder`; with the state to continue from.
    pub fn begin(
        &self,
        folder: &Path,
        config: RunConfig,
    ) -> Result<(RunDir, Option<State>), Error> {
        let interval = Duration::from_secs(self.checkpoint_every);
        if self.resume {
            RunDir::resume(folder, config, interval, self.allow_changes)
        } else {
            Ok((RunDir::create(folder, config, interval)?, None))
        }
    }
}
