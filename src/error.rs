//! What can go wrong between a file on disk and the logits.

use std::path::PathBuf;

use crate::model::Token;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model file cannot be opened.
    #[error("cannot open model {}: {error}", path.display())]
    ModelFile {
        /// Path of the model.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The model file is not a GGUF that this llama.cpp can load.
    #[error("cannot load model {}: {reason}", path.display())]
    ModelLoad {
        /// Path of the model or adapter.
        path: PathBuf,
        /// llama.cpp's first error line.
        reason: String,
    },
    /// A LoRA adapter is not one, or not one of this model.
    #[error("cannot load LoRA adapter {}: {reason}", path.display())]
    Lora {
        /// Path of the model or adapter.
        path: PathBuf,
        /// llama.cpp's first error line.
        reason: String,
    },
    /// The context could not be created.
    #[error("cannot create a context of {n_ctx} tokens: {reason}")]
    ContextInit {
        /// Context size asked for.
        n_ctx: u32,
        /// llama.cpp's first error line.
        reason: String,
    },
    /// A sidecar does not fit this model.
    #[error(transparent)]
    BaseMismatch(#[from] jola_edit::BaseMismatch),
    /// A sidecar cannot be read.
    #[error(transparent)]
    Sidecar(#[from] jola_edit::sidecar::SidecarError),
    /// Sidecars do not compose.
    #[error(transparent)]
    Compose(#[from] jola_edit::ComposeError),
    /// The edits could not be brought into the graph.
    #[error("cannot apply the edits: {0}")]
    Graph(jola_edit::graph::GraphError),
    /// The model's layers are ambiguous.
    #[error(transparent)]
    EncoderDecoder(#[from] jola_edit::EncoderDecoder),
    /// The model's layers run several times.
    #[error(transparent)]
    Looped(#[from] jola_edit::Looped),
    /// The model's weights are folded.
    #[error(transparent)]
    Folded(#[from] jola_edit::Folded),
    /// llama.cpp failed while it rebuilt the graph for edits.
    #[error("llama.cpp could not rebuild its graph for the edits: {0}")]
    Hook(String),
    /// llama.cpp threw a C++ exception.
    #[error("{name} failed: {message}")]
    Exception {
        /// The function of llama.cpp.
        name: &'static str,
        /// What the exception says.
        message: String,
    },
    /// A context that llama.cpp left half-way.
    #[error("the context failed before and cannot be used any more: create another one")]
    Broken,
    /// A LoRA adapter of another model than the context's.
    #[error("LoRA adapter {} was loaded for another model", path.display())]
    LoraModel {
        /// Path of the adapter.
        path: PathBuf,
    },
    /// A token of the last batch without logits.
    #[error("no logits were asked for at batch index {index}")]
    NoLogits {
        /// Position in the batch; negative ones count from the last output.
        index: i32,
    },
    /// More tokens than the context holds.
    #[error("{needed} tokens do not fit the context of {n_ctx}")]
    ContextFull {
        /// Tokens that would have to be held at once.
        needed: usize,
        /// Tokens that the context holds per sequence.
        n_ctx: usize,
    },
    /// A prompt without a single token to begin with.
    #[error("the prompt is empty")]
    NoPrompt,
    /// A row of data without a single token to begin with.
    #[error(
        "row in line {line}: the prompt is empty, and the model has no token that begins a text"
    )]
    EmptyPrompt {
        /// Line of the file, from 1.
        line: usize,
    },
    /// A row of data that is longer than the context.
    #[error("row in line {line}: {needed} tokens do not fit the context of {n_ctx}")]
    RowTooLong {
        /// Line of the file, from 1.
        line: usize,
        /// Tokens that would have to be held at once.
        needed: usize,
        /// Tokens that the context holds per sequence.
        n_ctx: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {n_vocab}")]
    TokenRange {
        /// The id that was asked for.
        token: Token,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A token of a batch belongs to no sequence.
    #[error("a token of the batch belongs to no sequence")]
    NoSequence,
    /// A sequence that the context does not have.
    #[error("sequence {sequence} does not exist: the context holds {n_seq_max}")]
    SequenceRange {
        /// The sequence, from 0.
        sequence: i32,
        /// How many there are.
        n_seq_max: usize,
    },
    /// A token of several sequences that have different edits.
    #[error("the token at position {position} belongs to sequences with different edits")]
    SharedToken {
        /// The position, from 0.
        position: usize,
    },
    /// Edits that are not loaded in this context.
    #[error("these edits were loaded for another context, or before its edits were replaced")]
    OtherEdits,
    /// The model computed logits that are no numbers.
    #[error(
        "the logits behind position {position} are not finite: an edit at too great a strength, \
         a damaged model file, or numbers beyond the range of the model's types"
    )]
    NotANumber {
        /// The position, from 0.
        position: usize,
    },
    /// `llama_decode` failed.
    #[error("llama_decode failed with status {status}: {reason}")]
    Decode {
        /// Its return value.
        status: i32,
        /// llama.cpp's first error line.
        reason: String,
    },
    /// Text could not be turned into tokens.
    #[error("cannot tokenize {len} bytes of text: {reason}")]
    Tokenize {
        /// Length of the text.
        len: usize,
        /// What stood in the way.
        reason: String,
    },
    /// The model has no chat template, or it does not render.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// A row of data that cannot be used.
    #[error("line {line}: {kind}")]
    Row {
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        kind: crate::data::RowError,
    },
    /// A tensor's bytes cannot be turned into floats.
    #[error("cannot dequantise ggml type {ggml_type}: {reason}")]
    Dequantize {
        /// ggml's type id.
        ggml_type: u32,
        /// What stood in the way.
        reason: String,
    },
    /// Floats cannot be turned into a tensor's type.
    #[error("cannot quantise to ggml type {ggml_type}: {reason}")]
    Quantize {
        /// ggml's type id.
        ggml_type: u32,
        /// What stood in the way.
        reason: String,
    },
}

// By hand: as a source the reason would be printed twice, here and by who prints the chain.
impl From<jola_edit::graph::GraphError> for Error {
    fn from(error: jola_edit::graph::GraphError) -> Self {
        Self::Graph(error)
    }
}
