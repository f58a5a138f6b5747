//! What all checks share: the model, the references, the sidecar, the builds.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};
use jola_edit::{Output, Sidecar};
use llama_jola::bake::{bake, BakeParams};
use llama_jola::{log_to_stderr, LogLevel, Model, ModelParams};

use crate::fixtures;
use crate::hosts::{builds, programs, Build};
use crate::preload::Preload;
use crate::reference::{Reference, Settings};

/// Heads that the random sidecar edits in each of the model's layers.
const HEADS: u32 = 2;
/// Its seed.
const SEED: u64 = 4;

/// Everything a check needs.
pub struct Lab {
    /// The programs under test.
    pub builds: Vec<Build>,
    /// llama.cpp's own programs, to measure with.
    pub programs: Build,
    /// Path of the base model.
    pub model_path: PathBuf,
    /// The base model, in this process.
    pub model: Model,
    /// The random sidecar: every layer, scale and offset.
    pub sidecar: Sidecar,
    /// Its file.
    pub sidecar_path: PathBuf,
    /// A trained sidecar, if there is one.
    pub trained: Option<PathBuf>,
    /// Prompts: short ones first, long ones last.
    pub texts: Vec<String>,
    /// The same as tokens.
    pub prompts: Vec<Vec<i32>>,
    /// The engine without edits.
    pub plain: RefCell<Reference>,
    /// The engine with the random sidecar.
    pub edited: RefCell<Reference>,
    /// Folder for files made here.
    pub folder: tempfile::TempDir,
    library: PathBuf,
    cache: PathBuf,
    logs: PathBuf,
    log_count: Cell<usize>,
}

impl Lab {
    /// Loads and makes everything.
    ///
    /// # Errors
    /// Anything that is missing.
    pub fn new(
        library: &Path,
        model_path: &Path,
        hosts: &Path,
        cache: &Path,
        trained: Option<PathBuf>,
        logs: Option<PathBuf>,
    ) -> Result<Self> {
        let found = |path: &Path| {
            path.canonicalize()
                .with_context(|| format!("{} is missing", path.display()))
        };
        let (library, model_path) = (found(library)?, found(model_path)?);
        let clients = Path::new(env!("CARGO_MANIFEST_DIR"));
        let hosts = found(hosts)?;
        let builds = builds(&hosts, clients);

        log_to_stderr(LogLevel::Silent);
        let model = Model::load(&model_path, &ModelParams::default())?;
        let folder = tempfile::tempdir()?;
        let sidecar = fixtures::random_sidecar(model.shape(), SEED, HEADS);
        // A space in the name: LLAMA_JOLA must bear it.
        let sidecar_path = folder.path().join("a random edit.gguf");
        sidecar.write(&sidecar_path)?;
        let examples = clients.join("../../../examples/routing");
        let texts = fixtures::prompts(&examples, 4, 2)?;
        let prompts = texts
            .iter()
            .map(|prompt| Ok(model.tokenize_prompt(prompt)?))
            .collect::<Result<Vec<_>>>()?;
        ensure!(prompts.len() == 6, "too few example rows");
        let logs = match logs {
            Some(logs) => {
                std::fs::create_dir_all(&logs)?;
                logs
            }
            None => folder.path().to_owned(),
        };
        Ok(Self {
            plain: RefCell::new(Reference::new(&model, &[], Settings::default())?),
            edited: RefCell::new(Reference::new(
                &model,
                &[(&sidecar, 1.0)],
                Settings::default(),
            )?),
            builds,
            programs: programs(&hosts),
            model_path,
            model,
            sidecar,
            sidecar_path,
            trained: trained.as_deref().map(found).transpose()?,
            texts,
            prompts,
            folder,
            library,
            cache: cache.to_owned(),
            logs,
            log_count: Cell::new(0),
        })
    }

    /// The base model in 32-bit floats, from the cache or made now.
    pub fn f32_copy(&self) -> Result<PathBuf> {
        testkit::f32_copy(&self.model_path, &self.cache, llama_jola::ggml::dequantize)
    }

    /// The base model quantised to Q4_0, from the cache or made now.
    pub fn q4_0_copy(&self) -> Result<PathBuf> {
        fixtures::q4_0_copy(&self.f32_copy()?)
    }

    /// A model of the base's first layers.
    pub fn few_layers(&self, layers: u32) -> Result<PathBuf> {
        let path = self.folder.path().join("few-layers.gguf");
        fixtures::write_few_layers(&self.model_path, layers, &path)?;
        Ok(path)
    }

    /// `base` with the random sidecar baked in, made at the first call.
    pub fn baked(&self, base: &Path) -> Result<PathBuf> {
        let stem = base.file_stem().context("a file name")?.to_string_lossy();
        let path = self.folder.path().join(format!("{stem}.baked.gguf"));
        if !path.exists() {
            let model = Model::load(base, &ModelParams::default())?;
            let edits = model.compose(&[(&self.sidecar, 1.0)])?;
            let output = Output::new(&path, &[base])?;
            let report = bake(&model, &edits, &[], &output, &BakeParams::default())?;
            eprintln!(
                "baked {stem}: {} tensors changed, weights as {}",
                report.changed.len(),
                report.outtype
            );
        }
        Ok(path)
    }

    /// Without the plugin.
    pub fn bare(&self) -> Preload {
        Preload::default()
    }

    /// With the plugin, and LLAMA_JOLA unset.
    pub fn unset(&self) -> Preload {
        Preload {
            library: Some(self.library.clone()),
            ..Preload::default()
        }
    }

    /// With the plugin and this value of LLAMA_JOLA.
    pub fn with(&self, edits: impl Into<String>) -> Preload {
        Preload {
            library: Some(self.library.clone()),
            edits: Some(edits.into()),
            // What was edited and what was left alone stands in the log.
            log: Some("info"),
        }
    }

    /// With the plugin, LLAMA_JOLA unset, and sidecars to be loaded as adapters.
    pub fn with_adapters(&self) -> Preload {
        Preload {
            log: Some("debug"),
            ..self.unset()
        }
    }

    /// With the plugin and the random sidecar.
    pub fn with_edits(&self) -> Preload {
        self.with(self.sidecar_path.display().to_string())
    }

    /// A new file for a host's log.
    pub fn log(&self) -> PathBuf {
        let count = self.log_count.get();
        self.log_count.set(count + 1);
        self.logs.join(format!("host-{count:03}.log"))
    }
}
