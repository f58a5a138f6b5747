//! Sidecars where llama-server takes LoRAs: per request, by HTTP, with whatever it has cached.

use std::path::PathBuf;

use anyhow::{ensure, Context as _, Result};
use jola_edit::Sidecar;
use llama_jola::{EditSet, Model, ModelParams};
use serde_json::json;

use super::Case;
use crate::client::{Client, Completion, Request};
use crate::fixtures;
use crate::hosts::Host;
use crate::lora::LoraReference;
use crate::reference::{compare, Agreement, Reference, Settings, FLOAT};
use crate::report::Report;

/// Seeds of the sidecars that are loaded.
const SEEDS: [u64; 2] = [21, 22];
/// Choices of their strengths, each other than the one before it.
const CHOICES: [[f32; 2]; 6] = [
    [1.0, 0.0],
    [0.0, 1.0],
    [0.0, 0.0],
    [0.5, -0.5],
    [-1.0, 0.0],
    [1.0, 0.25],
];

/// Two sidecars in files, on the base in 32-bit floats.
struct Adapters {
    base: PathBuf,
    model: Model,
    sidecars: [Sidecar; 2],
    files: [String; 2],
}

impl Adapters {
    fn reference(&self, strengths: [f32; 2]) -> Result<Reference> {
        let [a, b] = &self.sidecars;
        let edits = [(a, strengths[0]), (b, strengths[1])];
        let reference = Reference::new(&self.model, &edits, Settings::default())?;
        Ok(reference.with_tolerance(FLOAT))
    }
}

impl Case<'_> {
    /// What llama-server can do with adapters.
    pub(super) fn adapters(&self, report: &mut Report) {
        self.check(report, "adapters: per request", || self.per_request());
        self.check(report, "adapters: for all requests, by POST", || {
            self.by_post()
        });
        self.check(report, "adapters: beside LLAMA_JOLA and a LoRA", || {
            self.beside_others()
        });
        self.check(report, "adapters: other ones for a saved slot", || {
            self.other_for_saved_slot()
        });
        self.check(report, "adapters: earlier prompts kept in memory", || {
            self.kept_prompts()
        });
        self.check(report, "adapters: file removed, one loaded twice", || {
            self.removed_and_twice()
        });
        self.check(report, "refused: a LoRA in LLAMA_JOLA", || {
            let lab = self.lab;
            let path = lab.folder.path().join("lora.gguf");
            fixtures::write_lora(lab.model.shape(), 5, &path)?;
            let (preload, log) = (lab.with(path.display().to_string()), lab.log());
            self.build
                .refuse(self.backend, &lab.model_path, &preload, &[], &log)
        });
    }

    fn loaded(&self) -> Result<Adapters> {
        let lab = self.lab;
        let base = lab.f32_copy()?;
        let model = Model::load(&base, &ModelParams::default())?;
        let sidecars = SEEDS.map(|seed| fixtures::random_sidecar(model.shape(), seed, 2));
        let mut files = [String::new(), String::new()];
        for (file, (sidecar, seed)) in files.iter_mut().zip(sidecars.iter().zip(SEEDS)) {
            let path = lab.folder.path().join(format!("adapter-{seed}.gguf"));
            sidecar.write(&path)?;
            *file = path.to_str().context("path")?.to_owned();
        }
        Ok(Adapters {
            base,
            model,
            sidecars,
            files,
        })
    }

    /// The server with both, the first at full strength and the second at none.
    fn served(&self, adapters: &Adapters, args: &[&str]) -> Result<Host> {
        let lab = self.lab;
        let [a, b] = &adapters.files;
        let off = format!("{b}:0");
        let args = [&["--lora", a, "--lora-scaled", &off], args].concat();
        let (preload, log) = (lab.with_adapters(), lab.log());
        self.build
            .start(self.backend, &adapters.base, &preload, &args, &log)
    }

    fn cached(&self) -> Request {
        Request {
            cache_prompt: true,
            ..self.request
        }
    }

    /// Each prompt under each choice, by `ask`, against a fresh engine of that choice.
    fn every_choice(
        &self,
        adapters: &Adapters,
        mut ask: impl FnMut(&[i32], [f32; 2]) -> Result<Completion>,
    ) -> Result<String> {
        let mut worst: Option<Agreement> = None;
        let answers: Vec<Vec<Completion>> = CHOICES
            .iter()
            .map(|choice| {
                let prompts = self.prompts.iter();
                prompts.map(|prompt| ask(prompt, *choice)).collect()
            })
            .collect::<Result<_>>()?;
        for (i, (choice, answers)) in CHOICES.iter().zip(&answers).enumerate() {
            let agreement = adapters
                .reference(*choice)?
                .compare(&self.prompts, answers)?;
            agreement
                .ensure_same()
                .with_context(|| format!("strengths {choice:?}"))?;
            let before = CHOICES[(i + CHOICES.len() - 1) % CHOICES.len()];
            adapters
                .reference(before)?
                .compare(&self.prompts, answers)?
                .ensure_other_than(&agreement)
                .with_context(|| format!("strengths {choice:?} against {before:?}"))?;
            if worst.is_none_or(|worst| worst.mean < agreement.mean) {
                worst = Some(agreement);
            }
        }
        Ok(format!(
            "worst of {}: {}",
            CHOICES.len(),
            worst.context("none")?
        ))
    }

    fn per_request(&self) -> Result<String> {
        let adapters = self.loaded()?;
        let host = self.served(&adapters, &["-np", "1"])?;
        let client = host.client()?;
        let listed = client.get("/lora-adapters")?;
        ensure!(listed[0]["scale"] == json!(1.0) && listed[1]["scale"] == json!(0.0));
        ensure!(listed[1]["path"] == json!(adapters.files[1]));
        let said = self.every_choice(&adapters, |prompt, choice| {
            client.complete_under(prompt, self.cached(), &choice)
        })?;
        Ok(format!("{said}; {}", switches(&host)?))
    }

    /// Requests that name no adapters keep their slot's cache, whatever it was made under.
    fn by_post(&self) -> Result<String> {
        let adapters = self.loaded()?;
        let host = self.served(&adapters, &["-np", "1"])?;
        let client = host.client()?;
        let first = &self.prompts[0];
        let mut taken = 0;
        let said = self.every_choice(&adapters, |prompt, choice| {
            client.set_adapters(&choice)?;
            // The same prompt once more, so that there is something to be kept.
            client.complete(prompt, self.cached())?;
            client.set_adapters(&[choice[1], choice[0]])?;
            client.complete(prompt, self.cached())?;
            client.set_adapters(&choice)?;
            let answer = client.complete(prompt, self.cached())?;
            taken += answer.cached;
            Ok(answer)
        })?;
        ensure!(
            taken > 0,
            "the server did not use its cache: the check says nothing"
        );
        let again = client.complete_with(first, self.cached(), &json!({"lora": []}))?;
        let last = CHOICES[CHOICES.len() - 1];
        let agreement = adapters
            .reference(last)?
            .compare(std::slice::from_ref(first), &[again])?;
        agreement.ensure_same()?;
        Ok(said)
    }

    /// Every request gets the edits of LLAMA_JOLA; a LoRA works on the same layers.
    fn beside_others(&self) -> Result<String> {
        let (lab, adapters) = (self.lab, self.loaded()?);
        let lora = lab.folder.path().join("lora.gguf");
        fixtures::write_lora(lab.model.shape(), 5, &lora)?;
        let [a, _] = &adapters.files;
        let args = [
            "--lora",
            a,
            "--lora",
            lora.to_str().context("path")?,
            "-np",
            "1",
        ];
        let (preload, log) = (lab.with_edits(), lab.log());
        let host = self
            .build
            .start(self.backend, &adapters.base, &preload, &args, &log)?;
        let client = host.client()?;
        let mut worst: f64 = 0.0;
        for [strength, scale] in [[1.0, 1.0], [0.0, 0.5], [0.5, 0.0], [0.0, 0.0]] {
            let ask = |prompt: &Vec<i32>| {
                client.complete_under(prompt, self.cached(), &[strength, scale])
            };
            let answers: Vec<Completion> = self.prompts.iter().map(ask).collect::<Result<_>>()?;
            let set = [(&lab.sidecar, 1.0), (&adapters.sidecars[0], strength)];
            let edits = EditSet::compose(&set)?;
            let mut reference = LoraReference::new(&adapters.base, &edits, &lora, scale)?;
            let agreement = compare(&self.prompts, &answers, FLOAT, |prompt, tokens| {
                reference.log_probabilities(prompt, tokens)
            })?;
            agreement
                .ensure_same()
                .with_context(|| format!("strength {strength}, LoRA {scale}"))?;
            worst = worst.max(agreement.mean);
        }
        Ok(format!("worst of 4: Δ {worst:.4}"))
    }

    /// A slot that was saved under other adapters than those that it is used under.
    fn other_for_saved_slot(&self) -> Result<String> {
        let adapters = self.loaded()?;
        let folder = self.lab.folder.path().to_str().context("folder")?;
        let args = ["-np", "1", "--slot-save-path", folder];
        let host = self.served(&adapters, &args)?;
        let client = host.client()?;
        let prompt = self.prompts.last().context("a prompt")?;
        let file = json!({"filename": "adapters.bin"});
        client.complete_under(prompt, self.cached(), &[1.0, 0.0])?;
        client.post("/slots/0?action=save", &file)?;
        client.post("/slots/0?action=erase", &json!({}))?;
        client.set_adapters(&[0.0, 1.0])?;
        // Now the slot has the other adapters, and then the cache of the first.
        client.complete(&self.prompts[0], self.cached())?;
        client.post("/slots/0?action=restore", &file)?;
        let answer = client.complete(prompt, self.cached())?;
        ensure!(
            answer.cached > 0,
            "the slot was not used: the check says nothing"
        );
        let agreement = adapters
            .reference([0.0, 1.0])?
            .compare(std::slice::from_ref(prompt), &[answer])?;
        agreement.ensure_same()?;
        // In a server without these edits it is not used.
        drop(host);
        let lab = self.lab;
        let log = lab.log();
        let plain = self
            .build
            .start(self.backend, &adapters.base, &lab.unset(), &args, &log)?;
        let restored = plain.client()?.post("/slots/0?action=restore", &file);
        ensure!(restored.is_err(), "a server without edits took the slot");
        let said = "llama-jola: error: what was saved was computed under edits";
        ensure!(plain.output().contains(said), "no line {said:?}");
        // One that was saved by a server that knows no edits is computed anew.
        drop(plain);
        let log = lab.log();
        let bare = self
            .build
            .start(self.backend, &adapters.base, &lab.bare(), &args, &log)?;
        let client = bare.client()?;
        client.complete(prompt, self.cached())?;
        client.post("/slots/0?action=save", &file)?;
        drop(bare);
        let host = self.served(&adapters, &args)?;
        let client = host.client()?;
        client.post("/slots/0?action=restore", &file)?;
        let answer = client.complete(prompt, self.cached())?;
        ensure!(answer.cached > 0, "the slot of others was not used");
        let others = adapters
            .reference([1.0, 0.0])?
            .compare(std::slice::from_ref(prompt), &[answer])?;
        others.ensure_same()?;
        Ok(format!("{agreement}; refused without the edits"))
    }

    /// The server keeps prompts that gave way to others, and knows no adapters there.
    fn kept_prompts(&self) -> Result<String> {
        let adapters = self.loaded()?;
        let host = self.served(&adapters, &["-np", "1", "-cram", "512"])?;
        let client = host.client()?;
        let mut kept = 0;
        let said = self.every_choice(&adapters, |prompt, choice| {
            client.complete_under(prompt, self.cached(), &[choice[1], choice[0] + 0.5])?;
            // Another prompt drives the first one out of the slot, under the same adapters as
            // it comes back.
            let other: Vec<i32> = prompt.iter().rev().copied().collect();
            client.complete_under(&other, self.cached(), &choice)?;
            let answer = client.complete_under(prompt, self.cached(), &choice)?;
            kept += answer.cached;
            Ok(answer)
        })?;
        Ok(format!("{said}; {kept} tokens from the cache"))
    }

    fn removed_and_twice(&self) -> Result<String> {
        let adapters = self.loaded()?;
        let [a, _] = &adapters.files;
        let copy = self.lab.folder.path().join("removed.gguf");
        std::fs::copy(a, &copy)?;
        let name = copy.to_str().context("path")?;
        let args = ["--lora", name, "--lora", name, "-np", "1"];
        let (preload, log) = (self.lab.with_adapters(), self.lab.log());
        let host = self
            .build
            .start(self.backend, &adapters.base, &preload, &args, &log)?;
        std::fs::remove_file(&copy)?;
        let client = host.client()?;
        let listed = client.get("/lora-adapters")?;
        let count = listed.as_array().map_or(0, Vec::len);
        let first = &adapters.sidecars[0];
        let ask = |client: &Client, scales: &[f32], edits: &[(&Sidecar, f32)]| -> Result<()> {
            let answer = client.complete_under(&self.prompts[0], self.cached(), scales)?;
            Reference::new(&adapters.model, edits, Settings::default())?
                .with_tolerance(FLOAT)
                .compare(&self.prompts[..1], &[answer])?
                .ensure_same()
                .with_context(|| format!("scales {scales:?}"))
        };
        ask(&client, &[0.5], &[(first, 0.5)])?;
        if count == 2 {
            ask(&client, &[0.5, 0.25], &[(first, 0.5), (first, 0.25)])?;
        }
        // An unknown number is the server's own affair.
        ask(&client, &[0.0, 0.0, 1.0], &[])?;
        Ok(format!("{count} adapters"))
    }
}

/// How long switches took, as the plugin measured them.
fn switches(host: &Host) -> Result<String> {
    let log = host.output();
    let mut times: Vec<u64> = log
        .lines()
        .filter_map(|line| {
            let (_, line) = line.split_once("llama-jola: adapters set in ")?;
            line.split_once(' ')?.0.parse().ok()
        })
        .collect();
    times.sort_unstable();
    let (median, longest) = (times.get(times.len() / 2), times.last());
    let (median, longest) = median.zip(longest).context("no switch in the log")?;
    ensure!(*median < 1000, "switches take {times:?} µs");
    Ok(format!(
        "{} switches, median {median} µs, longest {longest} µs",
        times.len()
    ))
}
