//! Everything that can stop the trainer, by cause.

use std::path::PathBuf;

use jola_edit::{BaseMismatch, ComposeError, GgufError, OutputError, SidecarError};

mod hugging_face;

pub use hugging_face::{HfError, HfErrorKind};

/// An error of the trainer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base model's file is not a sound GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A directory in Hugging Face's layout cannot be used.
    #[error(transparent)]
    HuggingFace(#[from] HfError),
    /// The base model's architecture is not covered.
    #[error(
        "{}: architecture `{found}` cannot be trained yet; supported: {}",
        path.display(),
        jola_edit::architectures::trainable_names()
    )]
    Architecture {
        /// The file.
        path: PathBuf,
        /// `general.architecture`.
        found: String,
    },
    /// The base model uses something that the reference model does not compute.
    #[error("{}: the trainer does not know {what}", path.display())]
    Base {
        /// The file.
        path: PathBuf,
        /// What it uses.
        what: String,
    },
    /// A tensor of the base model.
    #[error("{}: tensor `{name}` {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A data file or one of its rows.
    #[error(transparent)]
    Data(#[from] llama_jola::data::DataError),
    /// The tokenizer or the chat template.
    #[error(transparent)]
    Engine(#[from] llama_jola::Error),
    /// A GPU that libtorch does not see.
    #[error("cuda:{index} is not there: libtorch sees {count} GPUs{}", reason(.why))]
    NoCuda {
        /// The GPU asked for.
        index: usize,
        /// GPUs that there are.
        count: usize,
        /// Why it sees none where the machine has one.
        why: Option<String>,
    },
    /// No row is short enough.
    #[error("{}: no row has at most {max_length} tokens (--max-length)", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
        /// The most tokens that a row may have.
        max_length: usize,
    },
    /// A sidecar cannot be read or written.
    #[error(transparent)]
    Sidecar(#[from] SidecarError),
    /// A sidecar belongs to another base model.
    #[error("{} does not fit {}: {mismatch}", sidecar.display(), base.display())]
    BaseMismatch {
        /// The sidecar's file.
        sidecar: PathBuf,
        /// The base model's file.
        base: PathBuf,
        /// In what the two differ.
        mismatch: BaseMismatch,
    },
    /// Sidecars do not go together.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// A target of LoRA that the base model does not have.
    #[error(
        "there is no matrix `{target}` to adapt in this base model's layers, which have: {targets}"
    )]
    LoraTarget {
        /// The name that was asked for.
        target: String,
        /// The names of the matrices that can be adapted.
        targets: String,
    },
    /// A LoRA adapter does not fit the base model or the reference model.
    #[error("{}: {reason}", path.display())]
    LoraFile {
        /// The adapter's file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The token's id.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A result cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A run directory that belongs to somebody else.
    #[error(
        "{} is no run directory: it holds {found}, which jola-train has not written; choose \
         another with --run-dir", folder.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Some of what is in it.
        found: String,
    },
    /// There is a file where the run directory should be.
    #[error("cannot make the run directory {}: {} is a file", folder.display(), file.display())]
    FileAsFolder {
        /// The run directory.
        folder: PathBuf,
        /// The file.
        file: PathBuf,
    },
    /// Beside an output that is no file nobody looks for a run directory.
    #[error("{} is no file: say with --run-dir where the run directory is to lie", output.display())]
    NoPlaceForRun {
        /// Where the result is written.
        output: PathBuf,
    },
    /// The output would lie where the run directory is.
    #[error("{} is the output and the run directory: name another with --run-dir", path.display())]
    RunDirIsOutput {
        /// Both.
        path: PathBuf,
    },
    /// A checkpoint that cannot be used.
    #[error("{} is no sound checkpoint: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A new run would wipe out one that is not finished.
    #[error(
        "{} holds an unfinished run, {step} steps done: continue it with --resume, or remove \
         the folder to start anew", folder.display()
    )]
    Unfinished {
        /// The run directory.
        folder: PathBuf,
        /// Steps that it has done.
        step: usize,
    },
    /// A run cannot be continued with other settings.
    #[error(
        "{} cannot be continued exactly (--allow-changes lets settings differ, but not base, \
         data or method):{differences}", folder.display()
    )]
    Changed {
        /// The run directory.
        folder: PathBuf,
        /// One line for each setting.
        differences: String,
    },
    /// Another process uses the run directory.
    #[error("{} is in use by another jola-train", folder.display())]
    Busy {
        /// The run directory.
        folder: PathBuf,
    },
    /// Saved optimiser state that does not belong to this run.
    #[error("saved state: {what}")]
    State {
        /// What does not fit.
        what: String,
    },
    /// The loss is no longer a number.
    #[error(
        "the loss is {loss} at step {step}: lower --lr (or --gate-lr), or train with --dtype f32"
    )]
    Diverged {
        /// First such step, from 1.
        step: usize,
        /// The loss of that step.
        loss: f64,
    },
    /// libtorch could not get memory that it asked for.
    #[error(
        "out of memory: {reason}\nThe run was thought to need {:.2} GiB there. Give --max-memory \
         less than there is, or lower --batch-size or --max-length, or train with --weights \
         quantised; a run that has a checkpoint goes on with --resume --allow-changes",
        gib(*.estimate)
    )]
    OutOfMemory {
        /// What libtorch said.
        reason: String,
        /// What the run was thought to need, in bytes.
        estimate: u64,
    },
    /// A limit of memory that the run cannot keep.
    #[error(
        "the run needs at least {:.2} GiB and has {:.2} (--max-memory, or what the GPU has free): \
         lower --batch-size or --max-length, or train with --weights quantised or --dtype bf16",
        gib(*.least), gib(*.limit)
    )]
    Memory {
        /// What is allowed, in bytes.
        limit: u64,
        /// What is needed with every layer recomputed, in bytes.
        least: u64,
    },
}

/// What follows a statement that has a reason.
fn reason(why: &Option<String>) -> String {
    why.as_ref().map_or(String::new(), |why| format!("; {why}"))
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
