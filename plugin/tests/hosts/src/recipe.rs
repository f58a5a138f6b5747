//! The programs in `examples/` for hosts that people write scripts for: run as they are, with
//! the plugin in their environment, they must write what `llama-jola` itself writes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{ensure, Context as _, Result};
use jola_edit::Sidecar;
use llama_jola::{CompletionParams, Context, ContextParams, Model, ModelParams};
use testkit::repository;

use crate::lab::Lab;
use crate::preload::{environment, Preload};
use crate::process::tail;
use crate::reference::{Reference, Settings, FLOAT};

/// Tokens that the examples generate at most.
pub const LENGTH: usize = 8;

/// An example and what runs it.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The interpreter.
    pub program: PathBuf,
    /// The example, from the root of the repository.
    pub file: &'static str,
    /// Folder of the modules that it imports, where the interpreter does not know them.
    pub modules: Option<PathBuf>,
}

impl Recipe {
    /// Compares the example's texts without and with the random sidecar.
    ///
    /// # Errors
    /// When it fails, or writes something else.
    pub fn check(&self, lab: &Lab, prompts: &[String]) -> Result<String> {
        let base = lab.f32_copy()?;
        let model = Model::load(&base, &ModelParams::default())?;
        let prompt = clear(lab, &model, prompts)?;
        let unedited = expected(&model, &[], prompt)?;
        let edited = expected(&model, &[(&lab.sidecar, 1.0)], prompt)?;
        ensure!(unedited != edited, "the edit changes nothing: {edited:?}");
        for (preload, wanted) in [(lab.unset(), unedited), (lab.with_edits(), edited.clone())] {
            let found = self.run(lab, &base, &preload, prompt)?;
            ensure!(
                found.trim() == wanted.trim(),
                "it wrote {found:?}, llama-jola {wanted:?}"
            );
        }
        Ok(format!("{edited:?}, as llama-jola"))
    }

    /// What the example prints.
    fn run(&self, lab: &Lab, base: &Path, preload: &Preload, prompt: &str) -> Result<String> {
        let folder = tempfile::tempdir_in(lab.folder.path())?;
        let mut file = repository(self.file);
        if let Some(modules) = &self.modules {
            // Node.js looks for modules beside the file that imports them.
            let copy = folder.path().join(file.file_name().context("a file")?);
            std::fs::copy(&file, &copy)?;
            std::os::unix::fs::symlink(modules, folder.path().join("node_modules"))?;
            file = copy;
        }
        let mut command = Command::new(&self.program);
        environment(&mut command, &[], preload)?;
        let output = command
            .arg(file)
            .arg(base)
            .arg(prompt)
            .stdin(Stdio::null())
            .output()?;
        let log = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", tail(&log));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The first prompt that has no close call in its continuations, without and with the edit:
/// hosts sum in another order.
pub fn clear<'a>(lab: &Lab, model: &Model, prompts: &'a [String]) -> Result<&'a str> {
    let mut plain = Reference::new(model, &[], Settings::default())?;
    let mut edited = Reference::new(model, &[(&lab.sidecar, 1.0)], Settings::default())?;
    for prompt in prompts {
        let tokens = model.tokenize_prompt(prompt)?;
        let margin = plain
            .margin(&tokens, LENGTH)?
            .min(edited.margin(&tokens, LENGTH)?);
        if margin > FLOAT.tie {
            return Ok(prompt);
        }
    }
    anyhow::bail!("every prompt has a close call")
}

/// What `llama-jola` writes.
pub fn expected(model: &Model, edits: &[(&Sidecar, f32)], prompt: &str) -> Result<String> {
    let mut context = Context::new(model, &ContextParams::default())?;
    context.set_edits(&model.compose(edits)?)?;
    let params = CompletionParams {
        n_predict: LENGTH,
        ..CompletionParams::default()
    };
    Ok(context.complete(prompt, &params)?)
}
