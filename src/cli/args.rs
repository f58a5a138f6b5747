//! Arguments that several commands share, in llama.cpp's spelling.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context as _, Result};
use clap::{Args, ValueEnum};
use jola_edit::gguf::{Gguf, Role};
use jola_edit::sidecar::text_sha256;
use jola_edit::{parse_spec, Doubt, EditSet};
use llama_jola::chat::ChatTemplate;
use llama_jola::{
    log_to_stderr, Adapters, CacheType, Context, ContextParams, EditedTokens, FlashAttention,
    LogLevel, Lora, Model, ModelParams, Sidecar,
};

/// llama.cpp's single-dash flags of several letters, which clap cannot parse as such.
const SINGLE_DASH: [(&str, &str); 7] = [
    ("-ngl", "--n-gpu-layers"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-fa", "--flash-attn"),
    ("-ub", "--ubatch-size"),
    ("-np", "--parallel"),
    ("-sys", "--system-prompt"),
];

/// Rewrites llama.cpp's single-dash flags of several letters to their long forms, up to a
/// `--`: what follows is another program's.
pub fn llama_spelling(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut ours = true;
    args.map(move |arg| {
        ours &= arg != "--";
        if !ours {
            return arg;
        }
        let long = SINGLE_DASH.iter().find(|(short, _)| arg == *short);
        long.map_or(arg, |(_, long)| OsString::from(long))
    })
}

/// Which model, which edits, and how to compute.
#[derive(Args)]
pub struct ModelArgs {
    /// Base model (GGUF)
    #[arg(short, long, value_name = "BASE.gguf")]
    model: PathBuf,
    /// Sidecar with edits; may be given several times, applied in this order
    #[arg(long, value_name = "EDIT.gguf")]
    jola: Vec<PathBuf>,
    /// Sidecar with a strength (1: as trained), split on the last colon; applied after those of
    /// --jola
    #[arg(long, value_name = "EDIT.gguf:STRENGTH", value_parser = parse_multiplied)]
    jola_scaled: Vec<(PathBuf, f32)>,
    /// LoRA adapter in llama.cpp's format, such as jola-train --method lora writes; may be
    /// given several times
    #[arg(long, value_name = "LORA.gguf")]
    lora: Vec<PathBuf>,
    /// LoRA adapter with a scale, split on the last colon
    #[arg(long, value_name = "LORA.gguf:SCALE", value_parser = parse_multiplied)]
    lora_scaled: Vec<(PathBuf, f32)>,
    /// Tokens to hold per sequence (0: as many as the model was trained for)
    #[arg(short, long, default_value_t = 4096)]
    ctx_size: u32,
    /// Threads (0: one per physical core)
    #[arg(short, long, default_value_t = 0)]
    threads: u32,
    /// Layers to keep on the GPU [-ngl] (negative: all)
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "N")]
    n_gpu_layers: i32,
    /// Most tokens computed at once [-ub]
    #[arg(long, default_value_t = 512, value_name = "N")]
    ubatch_size: u32,
    /// Number type of cached keys [-ctk]
    #[arg(long, value_enum, default_value = "f16", value_name = "TYPE")]
    cache_type_k: CacheArg,
    /// Number type of cached values [-ctv]
    #[arg(long, value_enum, default_value = "f16", value_name = "TYPE")]
    cache_type_v: CacheArg,
    /// Fused attention [-fa]; auto leaves it off for a cache of f32, which it would round
    #[arg(long, value_enum, default_value = "auto", value_name = "MODE")]
    flash_attn: FlashArg,
    /// Show llama.cpp's log
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum CacheArg {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Clone, Copy, ValueEnum)]
enum FlashArg {
    Auto,
    Off,
    On,
}

impl From<CacheArg> for CacheType {
    fn from(arg: CacheArg) -> Self {
        match arg {
            CacheArg::F32 => Self::F32,
            CacheArg::F16 => Self::F16,
            CacheArg::Bf16 => Self::Bf16,
            CacheArg::Q8_0 => Self::Q8_0,
        }
    }
}

/// Which tokens edits act on, for the commands that can choose.
#[derive(Args)]
pub struct TokensArgs {
    /// Tokens that the edits act on: all, as they were trained; prompt, those of the prompt alone;
    /// generated, from the prompt's last token on, as ITI does. For experiments and imports
    #[arg(long, value_enum, default_value = "all", value_name = "WHICH")]
    jola_tokens: TokensArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum TokensArg {
    All,
    Prompt,
    Generated,
}

impl TokensArgs {
    /// The tokens.
    ///
    /// # Errors
    /// When some are chosen though there is no edit.
    pub fn edited(&self, any_edit: bool) -> Result<EditedTokens> {
        let edited = match self.jola_tokens {
            TokensArg::All => EditedTokens::All,
            TokensArg::Prompt => EditedTokens::Prompt,
            TokensArg::Generated => EditedTokens::Generated,
        };
        if edited != EditedTokens::All && !any_edit {
            bail!("--jola-tokens needs an edit to act on some tokens only: give --jola");
        }
        Ok(edited)
    }
}

/// A file with the number after its last colon.
pub fn parse_multiplied(text: &str) -> Result<(PathBuf, f32), String> {
    parse_spec(text).map_err(|error| error.to_string())
}

impl ModelArgs {
    /// Loads everything and creates a context for `n_seq_max` sequences with edits and
    /// adapters attached. Warnings go to stderr.
    ///
    /// # Errors
    /// Any file that is missing, broken or does not belong to the model.
    pub fn open(&self, n_seq_max: u32) -> Result<Context> {
        let (model, adapters, params) = self.load(n_seq_max)?;
        let mut context = Context::new(&model, &params)?;
        context.set_adapters(&adapters)?;
        Ok(context)
    }

    /// Loads the model, the sidecars, composed, and the LoRA adapters, and says how to create
    /// contexts.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load(&self, n_seq_max: u32) -> Result<(Model, Adapters, ContextParams)> {
        log_to_stderr(if self.verbose {
            LogLevel::Info
        } else {
            LogLevel::Silent
        });
        let sidecars = self.sidecars()?;
        let model = Model::load(&self.model, &self.model_params())?;
        for (path, sidecar, _) in &sidecars {
            self.check_sidecar(&model, path, sidecar)?;
        }
        let pairs: Vec<(&Sidecar, f32)> = sidecars
            .iter()
            .map(|(_, sidecar, strength)| (sidecar, *strength))
            .collect();
        let adapters = Adapters {
            // Each was checked against the model above.
            edits: EditSet::compose(&pairs)?,
            loras: self.loras(&model)?,
        };
        Ok((model, adapters, self.context_params(n_seq_max)))
    }

    /// Warns of what is doubtful about a sidecar.
    ///
    /// # Errors
    /// One that does not belong to the model.
    pub fn check_sidecar(&self, model: &Model, path: &Path, sidecar: &Sidecar) -> Result<()> {
        for warning in &sidecar.warnings {
            eprintln!("warning: {}: {warning}", path.display());
        }
        sidecar
            .check_base(model.shape())
            .with_context(|| format!("{} does not fit {}", path.display(), self.model.display()))?;
        if let Some(doubt) = model.doubt(sidecar)? {
            eprintln!("warning: {}: {doubt}", path.display());
        }
        Ok(())
    }

    /// How to load the model.
    pub fn model_params(&self) -> ModelParams {
        ModelParams {
            n_gpu_layers: self.n_gpu_layers,
            ..ModelParams::default()
        }
    }

    fn context_params(&self, n_seq_max: u32) -> ContextParams {
        ContextParams {
            n_ctx: self.ctx_size,
            n_ubatch: self.ubatch_size,
            n_seq_max,
            n_threads: self.threads,
            type_k: self.cache_type_k.into(),
            type_v: self.cache_type_v.into(),
            flash_attention: match self.flash_attn {
                FlashArg::Auto => FlashAttention::Auto,
                FlashArg::Off => FlashAttention::Off,
                FlashArg::On => FlashAttention::On,
            },
            ..ContextParams::default()
        }
    }

    /// The sidecars' files with their strengths, in the order of application.
    pub fn sidecar_files(&self) -> impl Iterator<Item = (PathBuf, f32)> + '_ {
        multiplied(&self.jola, &self.jola_scaled)
    }

    /// The sidecars with their strengths, in the order of application.
    ///
    /// # Errors
    /// Any file that is missing or broken.
    pub fn sidecars(&self) -> Result<Vec<(PathBuf, Sidecar, f32)>> {
        refuse_strengths(&self.jola, "--jola-scaled")?;
        self.sidecar_files()
            .map(|(path, strength)| {
                let sidecar = Sidecar::read(&path)?;
                Ok((path, sidecar, strength))
            })
            .collect()
    }

    /// Warns about sidecars that were trained on another kind of prompt than those that go
    /// through `template`, or through none.
    ///
    /// # Errors
    /// Any file that is missing or broken.
    pub fn warn_of_prompts(&self, template: Option<&ChatTemplate>) -> Result<()> {
        let used = template.map(ChatTemplate::sha256);
        self.warn(|sidecar| sidecar.doubt_prompt(used))
    }

    /// Warns about sidecars that were trained with another chat template than the model's.
    ///
    /// # Errors
    /// As [`Self::warn_of_prompts`].
    pub fn warn_of_template(&self, model: &Model) -> Result<()> {
        let Some(source) = model.chat_template() else {
            return Ok(());
        };
        let own = text_sha256(&source);
        self.warn(|sidecar| sidecar.doubt_template(&own))
    }

    fn warn(&self, doubt: impl Fn(&Sidecar) -> Option<Doubt>) -> Result<()> {
        for (path, sidecar, _) in self.sidecars()? {
            warn_of(&path, doubt(&sidecar));
        }
        Ok(())
    }

    fn loras(&self, model: &Model) -> Result<Vec<(Lora, f32)>> {
        refuse_strengths(&self.lora, "--lora-scaled")?;
        self.lora_files()
            .map(|(path, scale)| {
                // llama.cpp would name the first key that it misses.
                Gguf::open(&path)?.expect(Role::Lora)?;
                Ok((Lora::load(model, path)?, scale))
            })
            .collect()
    }

    fn lora_files(&self) -> impl Iterator<Item = (PathBuf, f32)> + '_ {
        multiplied(&self.lora, &self.lora_scaled)
    }

    /// All files that are read, for an [`Output`](jola_edit::Output) that must be none of them.
    pub fn inputs(&self) -> Vec<PathBuf> {
        let adapters = self.sidecar_files().chain(self.lora_files());
        let adapters = adapters.map(|(path, _)| path);
        std::iter::once(self.model.clone())
            .chain(adapters)
            .collect()
    }
}

/// Warns of what is doubtful about a sidecar's use.
pub fn warn_of(path: &Path, doubt: Option<Doubt>) {
    match doubt {
        Some(doubt @ Doubt::PlainPrompt) => {
            eprintln!("warning: {}: {doubt} (see --chat)", path.display());
        }
        Some(doubt) => eprintln!("warning: {}: {doubt}", path.display()),
        None => {}
    }
}

/// Files given plainly, taken once, then those given with a number of times.
fn multiplied<'a>(
    plain: &'a [PathBuf],
    numbered: &'a [(PathBuf, f32)],
) -> impl Iterator<Item = (PathBuf, f32)> + 'a {
    let plain = plain.iter().map(|path| (path.clone(), 1.0));
    plain.chain(numbered.iter().cloned())
}

/// Points at the option that takes strengths where one stands behind the name of a file.
pub fn refuse_strengths(files: &[PathBuf], option: &str) -> Result<()> {
    for path in files {
        if without_strength(path).is_some() {
            let spec = path.display();
            bail!("there is no file {spec}; a strength is given with {option} {spec}");
        }
    }
    Ok(())
}

/// The file that is meant by a path which is none, but would be without `:STRENGTH` at its end.
pub fn without_strength(path: &Path) -> Option<PathBuf> {
    let (file, _) = parse_spec(path.to_str()?).ok()?;
    (!path.exists() && file != *path && file.exists()).then_some(file)
}
