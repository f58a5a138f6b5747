//! What only llama-server can do.

use anyhow::{ensure, Context as _, Result};
use llama_jola::{EditSet, Model, ModelParams};

use super::{Case, Request};
use crate::client::Completion;
use crate::fixtures;
use crate::hosts::Host;
use crate::lora::LoraReference;
use crate::preload::Preload;
use crate::reference::{compare, Reference, Settings, FLOAT, QUANTISED};
use crate::report::Report;

/// Layers of the small model that stands beside the edited one, which the sidecar is not for.
pub(super) const FEW_LAYERS: u32 = 4;

impl Case<'_> {
    /// What only llama-server can do.
    pub(super) fn servers(&self, report: &mut Report) -> Result<()> {
        let lab = self.lab;
        self.check(report, "edited, strength 0.5 and a second sidecar", || {
            let path = lab.folder.path().join("second.gguf");
            let second = fixtures::random_sidecar(lab.model.shape(), 99, 1);
            second.write(&path)?;
            let edits = format!("{}:0.5,{}", lab.sidecar_path.display(), path.display());
            let answers = self.answers(&lab.with(edits), &[])?;
            let set = [(&lab.sidecar, 0.5), (&second, 1.0)];
            self.compare_with(&answers, &set, Settings::default())
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
            self.compare_edited(&self.answers(&lab.with_edits(), &draft_args(draft))?)
        });
        self.check(report, "edited, another model as draft", || {
            self.other_draft()
        });
        self.check(report, "another model's embeddings: untouched", || {
            self.other_embeddings()
        });
        self.check(report, "edited, repacked weights", || self.repacked());
        self.check(report, "edited, LoRA on the same layers", || self.lora());
        Ok(())
    }

    /// The server with the base model.
    fn started(&self, preload: &Preload, args: &[&str]) -> Result<Host> {
        let log = self.lab.log();
        self.build
            .start(self.backend, &self.lab.model_path, preload, args, &log)
    }

    /// A draft model that the sidecar is not for: it is left alone and the edited model is not.
    fn other_draft(&self) -> Result<String> {
        let lab = self.lab;
        let draft = lab.few_layers(FEW_LAYERS)?;
        let draft = draft.to_str().context("path")?;
        let host = self.started(&lab.with_edits(), &draft_args(draft))?;
        let answers = self.ask(&host)?;
        let alone = "another model is left alone: ";
        ensure!(host.output().contains(alone), "no line {alone:?}");
        self.compare_edited(&answers)
    }

    /// A model of embeddings that the sidecar is not for.
    fn other_embeddings(&self) -> Result<String> {
        let lab = self.lab;
        let other = lab.few_layers(FEW_LAYERS)?;
        let args = ["--embedding", "--pooling", "mean"];
        let embeddings = |preload: &Preload| -> Result<(String, String)> {
            let log = lab.log();
            let host = self
                .build
                .start(self.backend, &other, preload, &args, &log)?;
            let content = serde_json::json!({"content": self.prompts[0]});
            let answer = host.client()?.post("/embedding", &content)?;
            let embedding = &answer[0]["embedding"];
            ensure!(embedding[0].is_array(), "no embedding in {answer}");
            Ok((embedding.to_string(), host.output()))
        };
        let (plain, _) = embeddings(&lab.bare())?;
        let (beside, log) = embeddings(&lab.with_edits())?;
        ensure!(plain == beside, "the plugin changed an embedding");
        let alone = "llama-jola: warning: an embedding model is left alone: ";
        let line = log.lines().find(|line| line.starts_with(alone));
        Ok(format!("identical; {}", line.context("no warning")?))
    }

    /// A base whose weights llama.cpp rearranges when it loads them.
    fn repacked(&self) -> Result<String> {
        let lab = self.lab;
        let base = lab.q4_0_copy()?;
        let log = lab.log();
        let host = self
            .build
            .start(self.backend, &base, &lab.with_edits(), &[], &log)?;
        let buffer = "CPU_REPACK model buffer size";
        ensure!(host.output().contains(buffer), "no {buffer} in the log");
        let answers = self.ask(&host)?;
        drop(host);
        // How far its kernels are from the reference's hangs on the processor.
        let bare = self.answers_on(&base, &lab.bare(), &[])?;
        let model = Model::load(&base, &ModelParams::default())?;
        let mut plain = Reference::new(&model, &[], Settings::default())?;
        let unedited = plain.compare(&self.prompts, &bare)?;
        let edited = self.compare_on(&base, QUANTISED.no_less_than(&unedited), &answers)?;
        Ok(format!("{edited}; without edits {unedited}"))
    }

    /// All prompts at once, each twice.
    fn parallel(&self, args: &[&str]) -> Result<String> {
        let lab = self.lab;
        let host = self.started(&lab.with_edits(), args)?;
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
        let host = self.started(&lab.with_edits(), &[])?;
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
        let host = self.started(&lab.with_edits(), &args)?;
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
        lora_only
            .ensure_other_than(&both)
            .context("LoRA without edits")?;
        let edits_only = against(&edits, 0.0)?;
        edits_only
            .ensure_other_than(&both)
            .context("edits without LoRA")?;
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

/// A llama-server's options for this draft model.
fn draft_args(model: &str) -> [&str; 6] {
    [
        "-md",
        model,
        "--spec-type",
        "draft-simple",
        "--spec-draft-n-max",
        "4",
    ]
}
