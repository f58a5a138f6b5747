//! Every build × backend × check.

mod adapters;
mod programs;
mod servers;

use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use jola_edit::Sidecar;
use llama_jola::{CacheType, FlashAttention, Model, ModelParams};

use crate::backend::Backend;
use crate::client::{Completion, Request};
use crate::fixtures;
use crate::hosts::{Build, Host};
use crate::lab::Lab;
use crate::preload::Preload;
use crate::reference::{Agreement, Reference, Settings, Tolerance, FLOAT, QUANTISED, TRAINED};
use crate::report::Report;

/// What a prompt is continued by.
const REQUEST: Request = Request {
    n_predict: 24,
    n_probs: 5,
    cache_prompt: false,
};
/// The same on Mesa's software device, which takes seconds for each token.
const SLOW_REQUEST: Request = Request {
    n_predict: 6,
    n_probs: 5,
    cache_prompt: false,
};

/// Runs all checks, prints the table, and says whether all passed.
pub fn run(lab: &Lab, filter: Option<String>) -> Result<bool> {
    let mut report = Report::new(filter);
    for build in &lab.builds {
        for backend in build.backends() {
            let case = Case::new(lab, build, *backend);
            if matches!(backend, Backend::TwoRpc | Backend::RpcAndCpu) {
                case.spread(&mut report);
                continue;
            }
            case.all_hosts(&mut report)?;
            if *backend == Backend::Cpu {
                let case = Case {
                    prompts: few(&case.prompts),
                    ..case
                };
                case.float(&mut report)?;
                if build.takes_options() {
                    case.options(&mut report);
                }
                if build.is_server() {
                    case.servers(&mut report)?;
                    case.adapters(&mut report);
                }
                // The prebuilt one runs in every check of a change, which is to stay short.
                if build.has_programs() {
                    case.programs(&mut report);
                }
            }
        }
    }
    Ok(report.finish())
}

/// Two single messages, and one long prompt.
fn few(prompts: &[Vec<i32>]) -> Vec<Vec<i32>> {
    [&prompts[..2], &prompts[prompts.len() - 1..]].concat()
}

/// One build on one backend.
struct Case<'a> {
    lab: &'a Lab,
    build: &'a Build,
    backend: Backend,
    request: Request,
    prompts: Vec<Vec<i32>>,
}

impl<'a> Case<'a> {
    fn new(lab: &'a Lab, build: &'a Build, backend: Backend) -> Self {
        let slow = backend == Backend::Vulkan;
        let prompts = &lab.prompts;
        Self {
            lab,
            build,
            backend,
            request: if slow { SLOW_REQUEST } else { REQUEST },
            prompts: if slow {
                prompts[..3].to_vec()
            } else {
                prompts.clone()
            },
        }
    }

    fn check(&self, report: &mut Report, name: &str, run: impl FnOnce() -> Result<String>) {
        report.check(self.build.name, self.backend.name(), name, run);
    }

    /// Starts the host and asks it all prompts, one after the other.
    fn answers(&self, preload: &Preload, args: &[&str]) -> Result<Vec<Completion>> {
        self.answers_on(&self.lab.model_path, preload, args)
    }

    /// The same with another base model.
    fn answers_on(&self, base: &Path, preload: &Preload, args: &[&str]) -> Result<Vec<Completion>> {
        let log = self.lab.log();
        self.ask(&self.build.start(self.backend, base, preload, args, &log)?)
    }

    /// Asks a host all prompts, one after the other.
    fn ask(&self, host: &Host) -> Result<Vec<Completion>> {
        let ask = |prompt: &Vec<i32>| host.complete(prompt, self.request);
        self.prompts.iter().map(ask).collect()
    }

    /// That `answers` are the edited model's and not the unedited one's.
    fn compare_edited(&self, answers: &[Completion]) -> Result<String> {
        let [edited, plain] = [&self.lab.edited, &self.lab.plain]
            .map(|reference| reference.borrow_mut().compare(&self.prompts, answers));
        told_apart(&edited?, &plain?)
    }

    /// As [`Self::compare_edited`] with a sidecar set and settings of its own.
    fn compare_with(
        &self,
        answers: &[Completion],
        edits: &[(&Sidecar, f32)],
        settings: Settings,
    ) -> Result<String> {
        self.compare_as(&self.lab.model, answers, edits, settings, QUANTISED)
    }

    /// As [`Self::compare_edited`] on another base.
    fn compare_on(
        &self,
        base: &Path,
        tolerance: Tolerance,
        answers: &[Completion],
    ) -> Result<String> {
        let model = Model::load(base, &ModelParams::default())?;
        let edits = [(&self.lab.sidecar, 1.0)];
        self.compare_as(&model, answers, &edits, Settings::default(), tolerance)
    }

    /// As [`Self::compare_edited`] with references of its own.
    fn compare_as(
        &self,
        model: &Model,
        answers: &[Completion],
        edits: &[(&Sidecar, f32)],
        settings: Settings,
        tolerance: Tolerance,
    ) -> Result<String> {
        let [edited, plain] = [edits, &[]].map(|edits| {
            Reference::new(model, edits, settings)?
                .with_tolerance(tolerance)
                .compare(&self.prompts, answers)
        });
        told_apart(&edited?, &plain?)
    }

    /// What every host can do.
    fn all_hosts(&self, report: &mut Report) -> Result<()> {
        let lab = self.lab;
        self.check(report, "plugin unset: untouched", || {
            let bare = self.answers(&lab.bare(), &[])?;
            let agreement = lab.plain.borrow_mut().compare(&self.prompts, &bare)?;
            agreement.ensure_same().context("without the plugin")?;
            let unset = self.answers(&lab.unset(), &[])?;
            ensure!(
                bare == unset,
                "the loaded plugin changed an answer or a log-probability"
            );
            Ok(format!("identical; {agreement} from llama-jola unedited"))
        });
        self.check(report, "edited", || {
            self.compare_edited(&self.answers(&lab.with_edits(), &[])?)
        });
        self.check(report, "edited, loaded as a LoRA", || {
            let file = lab.sidecar_path.to_str().context("path")?;
            self.compare_edited(&self.answers(&lab.with_adapters(), &["--lora", file])?)
        });
        self.check(report, "baked, without the plugin", || {
            let baked = lab.baked(&lab.model_path)?;
            self.compare_edited(&self.answers_on(&baked, &lab.bare(), &[])?)
        });
        if let Some(path) = &lab.trained {
            self.check(report, "edited, trained sidecar", || {
                let answers = self.answers(&lab.with(path.display().to_string()), &[])?;
                let sidecar = Sidecar::read(path)?;
                let edits = [(&sidecar, 1.0)];
                self.compare_as(&lab.model, &answers, &edits, Settings::default(), TRAINED)
            });
        }
        for (what, path) in fixtures::bad_sidecars(lab.model.shape(), lab.folder.path())? {
            self.check(report, &format!("refused: sidecar {what}"), || {
                let preload = lab.with(path.display().to_string());
                self.build
                    .refuse(self.backend, &lab.model_path, &preload, &[], &lab.log())
            });
            // Of what cannot be read llama.cpp itself says so.
            if what.starts_with("for ") {
                self.check(report, &format!("refused: as a LoRA, {what}"), || {
                    let args = ["--lora", path.to_str().context("path")?];
                    let preload = lab.with_adapters();
                    self.build
                        .refuse(self.backend, &lab.model_path, &preload, &args, &lab.log())
                });
            }
        }
        Ok(())
    }

    /// How attention is computed, where the host can be told.
    fn options(&self, report: &mut Report) {
        let lab = self.lab;
        for (args, flash) in [("off", FlashAttention::Off), ("on", FlashAttention::On)] {
            self.check(report, &format!("edited, flash attention {args}"), || {
                let answers = self.answers(&lab.with_edits(), &["-fa", args])?;
                let settings = Settings {
                    flash,
                    ..Settings::default()
                };
                self.compare_with(&answers, &[(&lab.sidecar, 1.0)], settings)
            });
        }
        self.check(report, "edited, KV cache q8_0", || {
            let args = ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"];
            let answers = self.answers(&lab.with_edits(), &args)?;
            let settings = Settings {
                flash: FlashAttention::On,
                cache: CacheType::Q8_0,
            };
            self.compare_with(&answers, &[(&lab.sidecar, 1.0)], settings)
        });
    }

    /// Layers on several devices.
    fn spread(&self, report: &mut Report) {
        let lab = self.lab;
        self.check(report, "edited", || {
            self.compare_edited(&self.answers(&lab.with_edits(), &[])?)
        });
        if self.backend == Backend::TwoRpc {
            self.check(report, "refused: heads split over devices", || {
                let (args, preload) = (["-sm", "tensor"], lab.with_edits());
                self.build
                    .refuse(self.backend, &lab.model_path, &preload, &args, &lab.log())
            });
        }
    }

    /// The same on a base in 32-bit floats, within a tenth of the tolerance.
    fn float(&self, report: &mut Report) -> Result<()> {
        let lab = self.lab;
        self.check(report, "edited, float32 base", || {
            let base = lab.f32_copy()?;
            let answers = self.answers_on(&base, &lab.with_edits(), &[])?;
            self.compare_on(&base, FLOAT, &answers)
        });
        self.check(report, "baked, float32 base", || {
            let base = lab.f32_copy()?;
            let answers = self.answers_on(&lab.baked(&base)?, &lab.bare(), &[])?;
            self.compare_on(&base, FLOAT, &answers)
        });
        if let Some(recipe) = self.build.recipe() {
            let name = format!("{}, float32 base", recipe.file);
            self.check(report, &name, || recipe.check(lab, &lab.texts));
        }
        Ok(())
    }
}

/// That answers agree with the edited reference and not with the plain one.
fn told_apart(edited: &Agreement, plain: &Agreement) -> Result<String> {
    edited.ensure_same()?;
    plain.ensure_other_than(edited)?;
    Ok(format!("{edited}; unedited would be Δ {:.3}", plain.mean))
}
