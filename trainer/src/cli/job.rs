//! Everything that a run needs to know before its model is loaded.

use anyhow::Result;
use jola_edit::BaseShape;
use tch::Device;

use super::inputs::{check_output, read_data};
use super::machine::{set_threads, Machine};
use super::method_args::MethodArgs;
use super::train_args::TrainArgs;
use crate::base::{self, Base};
use crate::method::Sizes;
use crate::model::{Config, Model, Sequence};
use crate::train::{estimate, Estimate, Settings};

/// A run that has been prepared.
pub(super) struct Job<'a> {
    pub args: &'a TrainArgs,
    pub machine: Machine,
    pub base: Box<dyn Base>,
    /// What the sidecar must agree with.
    pub shape: BaseShape,
    config: Config,
    /// Rows to train on.
    pub train: Vec<Sequence>,
    /// Rows to validate with.
    pub valid: Vec<Sequence>,
    pub settings: Settings,
}

impl Job<'_> {
    /// Opens the base, reads the rows and works out the settings.
    ///
    /// # Errors
    /// Files that cannot be read or written, options that do not go together.
    pub fn prepare<'a>(args: &'a TrainArgs, method: &MethodArgs) -> Result<Job<'a>> {
        check_output(&args.output)?;
        let threads = set_threads(args.threads);
        let device = args.device.resolve()?;
        let base = base::open(&args.model)?;
        // First: it names the architecture if that is what cannot be read.
        let config = Config::read(&*base)?;
        let shape = base.shape()?;
        let (train, valid) = read_data(args, &*base, &config)?;
        let settings = args.settings(method, &config, [train.len(), valid.len()])?;
        Ok(Job {
            args,
            machine: Machine {
                device,
                precision: args.dtype.resolve(device),
                threads,
            },
            base,
            shape,
            config,
            train,
            valid,
            settings,
        })
    }

    /// What the run will take. Under a limit, in GiB, as many layers are recomputed from now on
    /// as it takes to keep it.
    ///
    /// # Errors
    /// A limit that cannot be kept.
    pub fn fit_into_memory(&mut self, limit: Option<f64>) -> Result<Estimate> {
        let Settings {
            ref method, recipe, ..
        } = self.settings;
        let precision = self.machine.precision;
        let estimate = estimate(
            &*self.base,
            &self.config,
            precision,
            [&self.train, &self.valid],
            &self.settings,
            Sizes::new(method, &*self.base, &self.config, precision, recipe.init),
        );
        let Some(limit) = limit else {
            return Ok(estimate);
        };
        let estimate = estimate.within((limit * f64::from(1 << 30)) as u64)?;
        self.settings.recomputed = estimate.recomputed;
        Ok(estimate)
    }

    /// Loads the model, and says what will be trained on which machine.
    ///
    /// # Errors
    /// Those of [`Model::from_base`].
    pub fn load_model(&self) -> Result<Model> {
        let Machine {
            device,
            precision,
            threads,
        } = self.machine;
        let model = Model::from_base(&*self.base, precision, device)?;
        eprintln!(
            "{} rows to train on, {} to validate; {} layers of {} heads; {}, {}",
            self.train.len(),
            self.valid.len(),
            model.config.n_layer,
            model.config.n_head,
            precision.name(),
            match device {
                Device::Cpu => format!("{threads} CPU threads"),
                other => format!("{other:?}"),
            }
        );
        Ok(model)
    }
}
