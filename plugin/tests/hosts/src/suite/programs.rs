//! Programs that start others, and those that end after one answer: sidecars behind `--lora`.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use jola_edit::Sidecar;
use llama_jola::{Model, ModelParams};
use serde_json::json;

use super::servers::FEW_LAYERS;
use super::Case;
use crate::client::Client;
use crate::preload::Preload;
use crate::process::{free_port, tail, Process};
use crate::recipe::{clear, expected, LENGTH};
use crate::reference::{Reference, Settings, FLOAT};
use crate::report::Report;

/// A router starts at once and loads models when they are asked for.
const START_LIMIT: Duration = Duration::from_secs(60);

impl Case<'_> {
    /// llama-server in router mode, and llama-completion.
    pub(super) fn programs(&self, report: &mut Report) {
        self.check(report, "adapters: router mode", || self.router());
        self.check(report, "adapters: llama-completion", || self.completion());
    }

    /// A server that starts one of its kind for each model: all get the plugin and `--lora`.
    fn router(&self) -> Result<String> {
        let lab = self.lab;
        let (base, other) = (lab.f32_copy()?, lab.few_layers(FEW_LAYERS)?);
        let models = tempfile::tempdir_in(lab.folder.path())?;
        symlink(&base, models.path().join("base.gguf"))?;
        symlink(other, models.path().join("other.gguf"))?;
        let log = lab.log();
        let mut command = self.build.program("llama-server", &lab.with_adapters())?;
        let port = free_port()?.to_string();
        command.arg("--models-dir").arg(models.path());
        command.args(["--host", "127.0.0.1", "--port", &port]);
        command.args(["-c", "1024", "-np", "1", "-t", "1", "-tb", "1"]);
        command.arg("--lora").arg(&lab.sidecar_path);
        let mut router = Process::start(command, self.build.name, &log, false)?;
        let client = Client::new(format!("http://127.0.0.1:{port}"));
        router.wait_until(START_LIMIT, || client.is_ready())?;

        let model = Model::load(&base, &ModelParams::default())?;
        let prompts = &self.prompts[..1];
        let ask = |scale: f32| -> Result<()> {
            let more = json!({"model": "base", "lora": [{"id": 0, "scale": scale}]});
            let answer = client.complete_with(&prompts[0], self.request, &more)?;
            Reference::new(&model, &[(&lab.sidecar, scale)], Settings::default())?
                .with_tolerance(FLOAT)
                .compare(prompts, &[answer])?
                .ensure_same()
                .with_context(|| format!("scale {scale}"))
        };
        ask(1.0)?;
        ask(0.0)?;
        ask(0.5)?;
        let refused = client.complete_with(&prompts[0], self.request, &json!({"model": "other"}));
        ensure!(refused.is_err(), "a model that it is not for was served");
        let output = router.output();
        let why = "llama-jola: error: no adapter is loaded: ";
        let line = output.lines().find_map(|line| line.split_once(why));
        let (_, line) = line.with_context(|| format!("no line {why:?}: {}", tail(&output)))?;
        Ok(format!("3 strengths right; another model: {line}"))
    }

    /// One text, as `llama-jola` writes it.
    fn completion(&self) -> Result<String> {
        let lab = self.lab;
        let base = lab.f32_copy()?;
        let model = Model::load(&base, &ModelParams::default())?;
        let prompt = clear(lab, &model, &lab.texts)?;
        let file = lab.sidecar_path.to_str().context("path")?;
        let off = format!("{file}:0");
        let edited: &[(&Sidecar, f32)] = &[(&lab.sidecar, 1.0)];
        let mut texts = Vec::new();
        for (args, edits) in [
            (&[][..], &[][..]),
            (&["--lora", file], edited),
            (&["--lora-scaled", &off], &[]),
        ] {
            let wanted = expected(&model, edits, prompt)?;
            let found = self.complete(&base, &lab.with_adapters(), prompt, args)?;
            ensure!(
                found.trim() == wanted.trim(),
                "{args:?}: it wrote {found:?}, llama-jola {wanted:?}"
            );
            texts.push(wanted);
        }
        ensure!(texts[0] != texts[1], "the edit changes nothing: {texts:?}");
        Ok(format!("{:?}, as llama-jola", texts[1]))
    }

    fn complete(
        &self,
        base: &Path,
        preload: &Preload,
        prompt: &str,
        args: &[&str],
    ) -> Result<String> {
        let mut command = self.build.program("llama-completion", preload)?;
        command.arg("-m").arg(base).args(["-p", prompt]);
        command.args(["-n", &LENGTH.to_string(), "--temp", "0", "-t", "1"]);
        command.args(["-no-cnv", "--no-display-prompt", "--simple-io"]);
        let output = command.args(args).stdin(Stdio::null()).output()?;
        let log = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", tail(&log));
        let text = String::from_utf8(output.stdout)?;
        Ok(text.replace("[end of text]", ""))
    }
}
