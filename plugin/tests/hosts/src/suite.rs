/*!
Every build × backend × check.
*/

use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use jola_edit::Sidecar;
use llama_jola::{CacheType, EditSet, FlashAttention, Model, ModelParams};

use crate::fixtures;
use crate::hosts::{Backend, Build, Completion, Preload, Request};
use crate::lab::Lab;
use crate::lora::LoraReference;
use crate::reference::{compare, Reference, Settings, FLOAT};
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
        let backends: &[Backend] = match build.name {
            name if name.contains("prebuilt") => &[Backend::Cpu, Backend::Vulkan, Backend::Rpc],
            _ if build.is_server() => &[Backend::Cpu, Backend::Rpc],
            _ => &[Backend::Cpu],
        };
        for backend in backends {
            let case = Case::new(lab, build, *backend);
            case.all_hosts(&mut report)?;
            if *backend == Backend::Cpu {
                let case = Case {
                    prompts: few(&case.prompts),
                    ..case
                };
                case.float(&mut report)?;
                if build.is_server() {
                    case.servers(&mut report)?;
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
        let host = self.build.start(self.backend, base, preload, args, &log)?;
        self.prompts
            .iter()
            .map(|prompt| host.complete(prompt, self.request))
            .collect()
    }

    /// That `answers` are the edited model's and not the unedited one's.
    fn compare_edited(&self, answers: &[Completion]) -> Result<String> {
        let edited = self
            .lab
            .edited
            .borrow_mut()
            .compare(&self.prompts, answers)?;
        edited.ensure_same()?;
        let plain = self
            .lab
            .plain
            .borrow_mut()
            .compare(&self.prompts, answers)?;
        plain.ensure_other()?;
        Ok(format!("{edited}; unedited would be Δ {:.3}", plain.mean))
    }

    /// As [`Self::compare_edited`] with a sidecar set and settings of its own.
    fn compare_with(
        &self,
        answers: &[Completion],
        edits: &[(&Sidecar, f32)],
        settings: Settings,
    ) -> Result<String> {
        let model = &self.lab.model;
        let edited = Reference::new(model, edits, settings)?.compare(&self.prompts, answers)?;
        edited.ensure_same()?;
        let plain = Reference::new(model, &[], settings)?.compare(&self.prompts, answers)?;
        plain.ensure_other()?;
        Ok(format!("{edited}; unedited would be Δ {:.3}", plain.mean))
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
        self.check(report, "baked, without the plugin", || {
            let baked = lab.baked(&lab.model_path)?;
            self.compare_edited(&self.answers_on(&baked, &lab.bare(), &[])?)
        });
        if let Some(path) = &lab.trained {
            self.check(report, "edited, trained sidecar", || {
                let answers = self.answers(&lab.with(path.display().to_string()), &[])?;
                let sidecar = Sidecar::read(path)?;
                self.compare_with(&answers, &[(&sidecar, 1.0)], Settings::default())
            });
        }
        for (what, path) in fixtures::bad_sidecars(lab.model.shape(), lab.folder.path())? {
            self.check(report, &format!("refused: sidecar {what}"), || {
                let preload = lab.with(path.display().to_string());
                self.build
                    .refuse(self.backend, &lab.model_path, &preload, &[], &lab.log())
            });
        }
        Ok(())
    }

    /// The same on a base in 32-bit floats, within a tenth of the tolerance.
    fn float(&self, report: &mut Report) -> Result<()> {
        let lab = self.lab;
        self.check(report, "edited, float32 base", || {
            let base = lab.f32_copy()?;
            let answers = self.answers_on(&base, &lab.with_edits(), &[])?;
            self.compare_float(&base, &answers)
        });
        self.check(report, "baked, float32 base", || {
            let base = lab.f32_copy()?;
            let answers = self.answers_on(&lab.baked(&base)?, &lab.bare(), &[])?;
            self.compare_float(&base, &answers)
        });
        Ok(())
    }

    /// That `answers` are those of a float32 base with the edits, not those without.
    fn compare_float(&self, base: &Path, answers: &[Completion]) -> Result<String> {
        let model = Model::load(base, &ModelParams::default())?;
        let against = |edits: &[(&Sidecar, f32)]| {
            Reference::new(&model, edits, Settings::default())?
                .with_tolerance(FLOAT)
                .compare(&self.prompts, answers)
        };
        let edited = against(&[(&self.lab.sidecar, 1.0)])?;
        edited.ensure_same()?;
        let plain = against(&[])?;
        plain.ensure_other()?;
        Ok(format!("{edited}; unedited would be Δ {:.3}", plain.mean))
    }

    /// What only llama-server can do.
    fn servers(&self, report: &mut Report) -> Result<()> {
        let lab = self.lab;
        self.check(report, "edited, scale 0.5 and a second sidecar", || {
            let path = lab.folder.path().join("second.gguf");
            let second = fixtures::random_sidecar(lab.model.shape(), 99, 1);
            second.write(&path)?;
            let edits = format!("{}:0.5,{}", lab.sidecar_path.display(), path.display());
            let answers = self.answers(&lab.with(edits), &[])?;
            let set = [(&lab.sidecar, 0.5), (&second, 1.0)];
            self.compare_with(&answers, &set, Settings::default())
        });
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
        for (name, unified) in [("split", "-no-kvu"), ("unified", "-kvu")] {
            self.check(
                report,
                &format!("edited, 4 parallel slots, {name} KV"),
                || self.parallel(&["-np", "4", unified]),
            );
        }
        self.check(report, "edited, prompt cache", || self.prompt_cache());
        self.check(report, "edited, slot saved and restored", || {
            self.saved_slot()
        });
        self.check(report, "edited, same model as draft", || {
            let draft = lab.model_path.to_str().context("model path")?;
            let args = [
                "-md",
                draft,
                "--spec-type",
                "draft-simple",
                "--spec-draft-n-max",
                "4",
            ];
            self.compare_edited(&self.answers(&lab.with_edits(), &args)?)
        });
        self.check(report, "edited, LoRA on the same layers", || self.lora());
        Ok(())
    }

    /// All prompts at once, each twice.
    fn parallel(&self, args: &[&str]) -> Result<String> {
        let lab = self.lab;
        let host = self.build.start(
            self.backend,
            &lab.model_path,
            &lab.with_edits(),
            args,
            &lab.log(),
        )?;
        let client = host.client()?;
        let prompts = [&self.prompts[..], &self.prompts[..]].concat();
        let answers: Vec<Completion> = std::thread::scope(|scope| {
            let ask = |prompt: &'_ Vec<i32>| {
                let prompt = prompt.clone();
                let client = client.clone();
                let request = self.request;
                scope.spawn(move || client.complete(&prompt, request))
            };
            let waiting: Vec<_> = prompts.iter().map(ask).collect();
            waiting
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect::<Result<_>>()
        })?;
        let edited = lab.edited.borrow_mut().compare(&prompts, &answers)?;
        edited.ensure_same()?;
        Ok(format!("{edited}"))
    }

    /// Prompts with a common beginning, which the server takes from its cache.
    fn prompt_cache(&self) -> Result<String> {
        let lab = self.lab;
        let host = self.build.start(
            self.backend,
            &lab.model_path,
            &lab.with_edits(),
            &[],
            &lab.log(),
        )?;
        let long = self.prompts.last().context("a prompt")?;
        let mut other = long[..long.len() - 8].to_vec();
        other.extend(&self.prompts[0]);
        let prompts = [long.clone(), other.clone(), long.clone(), other];
        let request = Request {
            cache_prompt: true,
            ..self.request
        };
        let answers: Vec<Completion> = prompts
            .iter()
            .map(|prompt| host.complete(prompt, request))
            .collect::<Result<_>>()?;
        for answer in &answers[1..] {
            ensure!(
                answer.cached > 0,
                "the server did not use its cache: the check says nothing"
            );
        }
        let edited = lab.edited.borrow_mut().compare(&prompts, &answers)?;
        edited.ensure_same()?;
        Ok(format!(
            "{edited}; {} tokens from the cache",
            answers[1].cached
        ))
    }

    /// A slot's keys and values saved to a file, erased, restored, and used.
    fn saved_slot(&self) -> Result<String> {
        let lab = self.lab;
        let folder = lab.folder.path().to_str().context("folder")?;
        let args = ["-np", "1", "--slot-save-path", folder];
        let host = self.build.start(
            self.backend,
            &lab.model_path,
            &lab.with_edits(),
            &args,
            &lab.log(),
        )?;
        let prompt = self.prompts.last().context("a prompt")?;
        let request = Request {
            cache_prompt: true,
            ..self.request
        };
        let client = host.client()?;
        let first = client.complete(prompt, request)?;
        let file = serde_json::json!({"filename": "slot.bin"});
        client.post("/slots/0?action=save", &file)?;
        client.post("/slots/0?action=erase", &serde_json::json!({}))?;
        client.post("/slots/0?action=restore", &file)?;
        let again = client.complete(prompt, request)?;
        ensure!(
            again.cached > 0,
            "the restored slot was not used: the check says nothing"
        );
        let prompts = [prompt.clone(), prompt.clone()];
        let edited = lab.edited.borrow_mut().compare(&prompts, &[first, again])?;
        edited.ensure_same()?;
        Ok(format!("{edited}"))
    }

    /// A LoRA on the output projections of the edited layers: both products must see the
    /// edited heads, and each once. On the float32 base, where that shows clearly.
    fn lora(&self) -> Result<String> {
        let lab = self.lab;
        let base = lab.f32_copy()?;
        let path = lab.folder.path().join("lora.gguf");
        fixtures::write_lora(lab.model.shape(), 5, &path)?;
        let file = path.to_str().context("path")?;
        let answers = self.answers_on(&base, &lab.with_edits(), &["--lora", file])?;
        let edits = lab.model.compose(&[(&lab.sidecar, 1.0)])?;
        let against = |edits: &EditSet, scale: f32| {
            let mut reference = LoraReference::new(&base, edits, &path, scale)?;
            compare(&self.prompts, &answers, FLOAT, |prompt, tokens| {
                reference.log_probabilities(prompt, tokens)
            })
        };
        let both = against(&edits, 1.0)?;
        both.ensure_same()?;
        let lora_only = against(&EditSet::default(), 1.0)?;
        lora_only.ensure_other().context("LoRA without edits")?;
        let edits_only = against(&edits, 0.0)?;
        edits_only.ensure_other().context("edits without LoRA")?;
        let scaled = format!("{file}:0");
        let off = self.answers_on(&base, &lab.with_edits(), &["--lora-scaled", &scaled])?;
        let without = self.answers_on(&base, &lab.with_edits(), &[])?;
        ensure!(off == without, "a LoRA with scale 0 changed an answer");
        Ok(format!(
            "{both}; without edits Δ {:.3}, without LoRA Δ {:.3}; scale 0 identical to none",
            lora_only.mean, edits_only.mean
        ))
    }
}
