//! Everything that a run needs to know before its model is loaded.

use anyhow::Result;
use jola_edit::{BaseShape, Training};
use tch::Device;

use super::inputs::{read_data, Rows};
use super::machine::{device_names, set_threads, Machine, WeightsChoice};
use super::method_args::MethodArgs;
use super::train_args::TrainArgs;
use crate::base::{self, Base};
use crate::gpu;
use crate::method::{ClosedShares, Sizes, Sparsity};
use crate::model::{Config, Model, Precision, Sequence};
use crate::train::{estimate, Estimate, Settings, PATH_ROWS, SHORTEST_PATH};

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
    /// Rows to measure the results on.
    pub test: Vec<Sequence>,
    /// What the training rows are to the model.
    pub form: Training,
    pub settings: Settings,
    /// The seed by which rows were held back for validation.
    pub split_seed: u64,
}

impl Job<'_> {
    /// Opens the base, reads the rows and works out the settings. `split_seed` is that of the
    /// run that is continued.
    ///
    /// # Errors
    /// Files that cannot be read, options that do not go together.
    pub fn prepare<'a>(
        args: &'a TrainArgs,
        method: &MethodArgs,
        split_seed: Option<u64>,
    ) -> Result<Job<'a>> {
        let threads = set_threads(args.threads);
        let devices = args.device.resolve()?;
        let base = base::open(&args.model)?;
        // First: it names the architecture if that is what cannot be read.
        let config = Config::read(&*base)?;
        let shape = base.shape()?;
        let split_seed = split_seed.unwrap_or(args.seed);
        let rows = read_data(args, split_seed, &*base, &config)?;
        let Rows {
            train,
            valid,
            test,
            form,
        } = rows;
        let settings = args.settings(method, &config, [train.len(), valid.len()])?;
        Ok(Job {
            args,
            machine: Machine {
                precision: args.dtype.resolve(devices.first()),
                devices,
                threads,
            },
            base,
            shape,
            config,
            train,
            valid,
            test,
            form,
            settings,
            split_seed,
        })
    }

    /// What the run will take. Under the limit of --max-memory, and on a GPU in what it has free,
    /// as many layers are recomputed from now on as it takes to keep it, and weights stay
    /// quantised where --weights leaves it open and they would not fit otherwise.
    ///
    /// # Errors
    /// A limit that cannot be kept.
    pub fn fit_into_memory(&mut self) -> Result<Estimate> {
        let given = self.args.max_memory;
        let given = given.map(|gib| (gib * f64::from(1 << 30)) as u64);
        let free = self.machine.devices.iter().map(|device| match device {
            Device::Cuda(index) => gpu::free_memory(index),
            _ => None,
        });
        let free: Option<u64> = free.sum();
        let limit = given.into_iter().chain(free).min();
        let fitted = |precision: Precision| {
            let estimate = self.estimate(precision);
            match limit {
                Some(limit) => estimate.within(limit),
                None => Ok(estimate),
            }
        };
        let dense = self.machine.precision;
        let (precision, estimate) = match self.args.weights {
            WeightsChoice::Dense => (dense, fitted(dense)?),
            WeightsChoice::Quantised => (dense.in_blocks(), fitted(dense.in_blocks())?),
            WeightsChoice::Auto => match fitted(dense) {
                Ok(estimate) => (dense, estimate),
                Err(_) => (dense.in_blocks(), fitted(dense.in_blocks())?),
            },
        };
        self.machine.precision = precision;
        self.settings.recomputed = estimate.recomputed;
        Ok(estimate)
    }

    /// What the run would take in this precision.
    fn estimate(&self, precision: Precision) -> Estimate {
        let Settings {
            ref method, recipe, ..
        } = self.settings;
        estimate(
            &*self.base,
            &self.config,
            (precision, self.machine.devices.first()),
            [&self.train, &self.valid, &self.test],
            &self.settings,
            Sizes::new(method, &*self.base, &self.config, precision, recipe.init),
        )
    }

    /// Loads the model, and says what will be trained on which machine.
    ///
    /// # Errors
    /// Those of [`Model::from_base`].
    pub fn load_model(&self) -> Result<Model> {
        let Machine {
            ref devices,
            precision,
            threads,
        } = self.machine;
        let mut model = Model::from_base(&*self.base, precision, devices.clone())?;
        model.serve_rows(self.train.iter().chain(&self.valid).chain(&self.test));
        eprintln!(
            "{} rows to train on, {} to validate; {} layers of {} heads; {}{}, {}",
            self.train.len(),
            self.valid.len(),
            model.config.n_layer,
            model.config.n_head,
            precision.name(),
            if precision.blocks {
                ", weights as in the file"
            } else {
                ""
            },
            match devices.first() {
                Device::Cpu => format!("{threads} CPU threads"),
                _ => device_names(devices),
            }
        );
        if self.stays_dense() {
            eprintln!(
                "note: all gates stay open: it takes {PATH_ROWS} validation rows and \
                 {SHORTEST_PATH} steps to tell which can be closed (--sparsity closes a given share)"
            );
        }
        Ok(model)
    }

    /// Whether no gate is closed without the user's having said so.
    fn stays_dense(&self) -> bool {
        let Settings {
            ref method,
            sparsity,
            ..
        } = self.settings;
        let open = Sparsity::Target(ClosedShares::both(0.0));
        method.gated() && self.args.sparsity.is_none() && sparsity == open
    }
}
