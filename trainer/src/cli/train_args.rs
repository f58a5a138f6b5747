//! The options of a training run, and the settings that they mean.

use std::path::PathBuf;

use anyhow::{ensure, Result};
use clap::{Args, ValueEnum};
use llama_jola::data::Turns;
use serde::Serialize;

use super::machine::{DeviceChoice, DtypeChoice, WeightsChoice};
use super::method_args::{MethodArgs, RecipeName};
use super::values::{count, positive, rate, share, sparsity, weight};
use crate::data::Sampler;
use crate::method::{Method, Sparsity};
use crate::model::Config;
use crate::train::{Rate, Recipe, Settings, PATH_EPOCHS, PATH_ROWS, SHORTEST_PATH};

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Base model: a GGUF file of any quantisation, trained on as llama.cpp dequantises it,
    /// or a directory in Hugging Face's layout.
    #[arg(short, long, value_name = "BASE.gguf|DIR")]
    pub(super) model: PathBuf,
    /// Training rows, one JSON object a line: {"prompt","completion"}, {"messages":[…]} or
    /// {"instruction","input","answer"}.
    #[arg(long, value_name = "TRAIN.jsonl")]
    pub(super) data: PathBuf,
    /// Validation rows. The run keeps the edit that answers most of them exactly. If the best
    /// edits differ by fewer than two rows, it keeps the one with the lowest loss among them. With
    /// free text and with --recipe paper, the loss alone decides.
    #[arg(long, value_name = "VALID.jsonl", conflicts_with = "valid_share")]
    pub(super) valid: Option<PathBuf>,
    /// Without --valid: the share of the training rows held out for validation.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = share)]
    pub(super) valid_share: f64,
    /// Test rows, which the run does not look at before it is done: how its edits do on them, and
    /// the model without an edit, goes to test.md in the run directory, and row by row to
    /// test.jsonl.
    #[arg(long, value_name = "TEST.jsonl")]
    pub(super) test: Option<PathBuf>,
    /// Where to write the sidecar (with --method lora: the LoRA adapter).
    #[arg(short, long, value_name = "EDIT.gguf")]
    pub(super) output: PathBuf,
    /// Share of the gates to close: each head has a gate for its scale and one for its
    /// offset. Two numbers, as 0.9,0.85, are for scales and for offsets. A closed gate leaves
    /// no trace in the sidecar. auto: the run trains a dense edit, a sparse one and, as these two
    /// turn out, the sparse one further, one between them or the dense one further, and writes the
    /// sparsest that is no worse than the best, by more than one standard error, on the validation
    /// rows [default: auto; 0 with fewer than 20 validation rows or 60 steps].
    #[arg(long, value_name = "auto|SHARE[,SHARE]", value_parser = sparsity)]
    pub(super) sparsity: Option<Sparsity>,
    /// Instead of --sparsity: the λ of the paper's penalty λ·Σ P(gate ≠ 0). With --method
    /// lofit: the λ of the L1 penalty on the scales [there: 1e-3].
    #[arg(long, value_name = "L", conflicts_with = "sparsity", value_parser = positive)]
    pub(super) lambda: Option<f64>,
    /// Use only the first N training rows.
    #[arg(long, value_name = "N", value_parser = count)]
    pub(super) limit: Option<usize>,
    /// Times that every row is seen [default: 12, 15 with --sparsity auto, more where these are
    /// fewer than 150 steps; with --recipe paper: 20].
    #[arg(long, value_name = "N", value_parser = count)]
    pub(super) epochs: Option<usize>,
    /// Instead of --epochs: optimiser steps.
    #[arg(long, value_name = "N", conflicts_with = "epochs", value_parser = count)]
    pub(super) steps: Option<usize>,
    /// Rows per optimiser step [default: 4; with --recipe paper: 8].
    #[arg(long, value_name = "N", value_parser = count)]
    pub(super) batch_size: Option<usize>,
    /// Learning rate at its peak, of scales and offsets or of low-rank factors. auto: the best
    /// of three to five short trials before the run. It rises once gates are closed, the more the
    /// fewer are left (not with --recipe paper)
    /// [default: auto; with --recipe paper: 0.005].
    #[arg(long, value_name = "auto|X", value_parser = rate)]
    pub(super) lr: Option<Rate>,
    /// Weight of how far the edited model's next tokens are from the unedited model's within the
    /// prompts (Kullback-Leibler divergence): what keeps an edit from changing other text, too.
    /// Once gates close it is multiplied by the share that stays open. 0 leaves it out
    /// [default: 1; with --recipe paper: 0].
    #[arg(long, value_name = "X", value_parser = weight)]
    pub(super) kl: Option<f64>,
    /// Learning rate of the gates (of log alpha) [default: by the number of steps].
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(super) gate_lr: Option<f64>,
    /// Seed of everything random. The same seed and thread count give the same file on a CPU.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(super) seed: u64,
    /// Stop when so many validations in a row were no better than the best before; 0: never.
    /// Validation begins where the choice of heads ends [default: 3; with --recipe paper: 2].
    #[arg(long, value_name = "N")]
    pub(super) patience: Option<usize>,
    /// Leave out rows of more tokens [default: the base model's context].
    #[arg(long, value_name = "N", value_parser = count)]
    pub(super) max_length: Option<usize>,
    /// Number format of frozen weights and activations.
    #[arg(long, value_enum, default_value_t = DtypeChoice::Auto)]
    pub(super) dtype: DtypeChoice,
    /// auto, cpu, cuda or cuda:N; several GPUs, as cuda:0,cuda:1, share the layers by the memory
    /// that they have free.
    #[arg(long, default_value = "auto")]
    pub(super) device: DeviceChoice,
    /// CPU threads [default: all cores].
    #[arg(short, long, value_name = "N", value_parser = count)]
    pub(super) threads: Option<usize>,
    /// How frozen weights are held.
    #[arg(long, value_enum, default_value_t = WeightsChoice::Auto)]
    pub(super) weights: WeightsChoice,
    /// Most memory to use, in GiB [default: on a GPU, what it has free]. If need be, lower
    /// layers are recomputed in the backward pass: less memory, the same result, up to half
    /// more time.
    #[arg(long, value_name = "GIB", value_parser = positive)]
    pub(super) max_memory: Option<f64>,
    /// Send plain prompts through the model's chat template, as one user message.
    #[arg(long)]
    pub(super) chat: bool,
    /// Which of the assistant's turns in "messages" rows are learned: every one (but those with
    /// "weight": 0), or the last one only.
    #[arg(long, value_enum, default_value_t = TurnsChoice::All)]
    pub(super) turns: TurnsChoice,
    /// Print the number of rows, tokens, steps and trained numbers and the memory that the
    /// run will need, and stop.
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Turns of the assistant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TurnsChoice {
    /// Every one.
    All,
    /// The last one.
    Last,
}

impl From<TurnsChoice> for Turns {
    fn from(choice: TurnsChoice) -> Turns {
        match choice {
            TurnsChoice::All => Turns::All,
            TurnsChoice::Last => Turns::Last,
        }
    }
}

impl TrainArgs {
    /// All files that are read.
    pub(super) fn inputs(&self) -> Vec<PathBuf> {
        let inputs = [&self.model, &self.data].into_iter();
        inputs
            .chain(&self.valid)
            .chain(&self.test)
            .cloned()
            .collect()
    }

    /// What the options mean for so many rows, to train on and to validate with, and a model
    /// like `config`.
    ///
    /// # Errors
    /// Options that do not go together.
    pub(super) fn settings(
        &self,
        options: &MethodArgs,
        config: &Config,
        [n_rows, n_valid]: [usize; 2],
    ) -> Result<Settings> {
        let method = options.method(self.lambda, config)?;
        let defaults = options.recipe.defaults();
        let sampler = Sampler {
            n_rows,
            batch_size: self.batch_size.unwrap_or(defaults.batch_size),
            seed: self.seed,
        };
        self.refuse_options_of_others(&method, options.recipe)?;
        let epochs_with = |sparsity| match sparsity {
            Sparsity::Path if method.gated() => PATH_EPOCHS,
            _ => defaults.epochs,
        };
        let steps_with = |sparsity| {
            let per_epoch = sampler.steps_per_epoch();
            let epochs = self.epochs.unwrap_or_else(|| {
                epochs_with(sparsity).max(defaults.least_steps.div_ceil(per_epoch))
            });
            self.steps.unwrap_or(epochs * per_epoch)
        };
        let asked = self.lambda.map(Sparsity::Lambda).or(self.sparsity);
        let mut sparsity = asked.unwrap_or(defaults.sparsity);
        if sparsity == Sparsity::Path {
            sparsity = Settings::path(steps_with(sparsity), n_valid);
            ensure!(
                self.sparsity != Some(Sparsity::Path) || sparsity == Sparsity::Path,
                "--sparsity auto needs {PATH_ROWS} validation rows and {SHORTEST_PATH} steps: give more, or a share"
            );
        }
        let steps = steps_with(sparsity);
        let epochs = steps.div_ceil(sampler.steps_per_epoch());
        Ok(Settings {
            lr: self.lr.unwrap_or(defaults.lr),
            kl: self.kl.unwrap_or(defaults.kl),
            method,
            sparsity,
            steps,
            batch_size: sampler.batch_size,
            gate_lr: self.gate_lr,
            patience: self.patience.unwrap_or(defaults.patience),
            recomputed: 0,
            seed: self.seed,
            recipe: match options.recipe {
                RecipeName::Default => Recipe::default(),
                RecipeName::Paper => Recipe::paper(steps, epochs, config.n_head),
            },
        })
    }

    /// Refuses what the method or the recipe has no place for.
    fn refuse_options_of_others(&self, method: &Method, recipe: RecipeName) -> Result<()> {
        let paper = recipe == RecipeName::Paper;
        let of_gates = [
            ("--recipe paper", paper),
            ("--sparsity", self.sparsity.is_some()),
            ("--gate-lr", self.gate_lr.is_some()),
            (
                "--lambda",
                self.lambda.is_some() && !matches!(method, Method::Lofit { .. }),
            ),
        ];
        for (option, given) in of_gates {
            let name = method.name();
            ensure!(
                method.gated() || !given,
                "{option} is for gates: --method {name} has none"
            );
        }
        if paper {
            ensure!(
                self.gate_lr.is_none(),
                "--recipe paper trains gates at --lr"
            );
            ensure!(
                self.sparsity.is_none(),
                "--recipe paper goes by --lambda, not --sparsity"
            );
        }
        Ok(())
    }
}
