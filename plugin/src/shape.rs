//! What a sidecar must agree with, read from the host's model through its public API.

use std::ffi::CString;
use std::sync::Arc;

use jola_edit::gguf::{Array, GgufErrorKind, Metadata};
use jola_edit::sidecar::{BaseMismatch, BaseShape};
use jola_edit::{EncoderDecoder, Folded, Looped, Sidecar};

use crate::host::{LlamaModel, ModelApi};
use crate::request::Source;

/// Why edits are not for a model.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The model's metadata lack what is compared, or contradict themselves.
    #[error("the model's metadata do not tell its attention heads: {0}")]
    Metadata(#[from] GgufErrorKind),
    /// It is another model than the sidecar's.
    #[error("{file}: {mismatch}")]
    Mismatch {
        /// The sidecar's path.
        file: String,
        /// The first difference between the two.
        mismatch: BaseMismatch,
    },
    /// Its layers' numbers are ambiguous.
    #[error(transparent)]
    EncoderDecoder(#[from] EncoderDecoder),
    /// Its layers run several times.
    #[error(transparent)]
    Looped(#[from] Looped),
    /// Its weights are folded.
    #[error(transparent)]
    Folded(#[from] Folded),
}

/// Keys below the architecture's name that decide the shape; all are numbers.
const NUMBERS: [&str; 5] = [
    "block_count",
    "embedding_length",
    "attention.value_length",
    "attention.value_length_mla",
    "attention.value_length_swa",
];

/// Checks that every one of `sidecars` is for `model`.
///
/// # Errors
/// Any [`ShapeError`].
///
/// # Safety
/// `model` must be a live model of the llama.cpp that `api` belongs to.
pub unsafe fn check(
    api: ModelApi,
    model: *const LlamaModel,
    sidecars: &[(Arc<Source>, f32)],
) -> Result<(), ShapeError> {
    for (source, _) in sidecars {
        // SAFETY: the caller vouches for `model`.
        let shape = unsafe { read(api, model, &source.sidecar)? };
        source
            .sidecar
            .check_base(&shape)
            .map_err(|mismatch| ShapeError::Mismatch {
                file: source.path.display().to_string(),
                mismatch,
            })?;
    }
    // SAFETY: as above.
    let (encoder, decoder) = unsafe {
        (
            (api.llama_model_has_encoder)(model),
            (api.llama_model_has_decoder)(model),
        )
    };
    EncoderDecoder::refuse(encoder, decoder)?;
    // SAFETY: as above.
    let text = |key: &str| unsafe { value(api, model, key) };
    Folded::refuse(|key| text(key).is_some())?;
    let architecture = text("general.architecture").unwrap_or_default();
    Ok(Looped::refuse(&architecture, |key| {
        text(key)?.parse().ok()
    })?)
}

/// The shape of a model. llama.cpp does not tell metadata that are arrays: head counts that
/// differ by layer, and which layers have attention, are taken to be the sidecar's. The graph
/// then shows whether each edited layer has that width.
///
/// # Safety
/// As for [`check`].
unsafe fn read(
    api: ModelApi,
    model: *const LlamaModel,
    sidecar: &Sidecar,
) -> Result<BaseShape, GgufErrorKind> {
    // SAFETY: the caller vouches for `model`.
    let text = |key: &str| unsafe { value(api, model, key) };
    let number = |key: &str| text(key).and_then(|text| text.parse::<u32>().ok());
    let mut metadata = Metadata::new();
    let architecture = text("general.architecture").unwrap_or_default();
    for name in NUMBERS {
        let key = format!("{architecture}.{name}");
        if let Some(number) = number(&key) {
            metadata.insert(key, number)?;
        }
    }
    let counts = (0..sidecar.block_count).map(|layer| sidecar.head_count.at(layer).unwrap_or(0));
    let by_layer = [
        ("attention.head_count", Array::U32(counts.clone().collect())),
        (
            "attention.head_count_kv",
            Array::U32(counts.map(|count| count.min(1)).collect()),
        ),
    ];
    for (name, unknown) in by_layer {
        let key = format!("{architecture}.{name}");
        match number(&key) {
            Some(count) => metadata.insert(key, count)?,
            None => metadata.insert(key, unknown)?,
        }
    }
    metadata.insert("general.architecture", architecture)?;
    BaseShape::from_metadata(&metadata)
}

/// The text of a metadata key.
///
/// # Safety
/// As for [`check`].
pub(crate) unsafe fn value(api: ModelApi, model: *const LlamaModel, key: &str) -> Option<String> {
    let key = CString::new(key).ok()?;
    let mut text = vec![0u8; 256];
    for _ in 0..2 {
        // SAFETY: `text` is valid for its length; llama.cpp terminates what it writes and
        // returns the whole length, negative when there is no such key.
        let len = unsafe {
            let buffer = text.as_mut_ptr().cast();
            (api.llama_model_meta_val_str)(model, key.as_ptr(), buffer, text.len())
        };
        let len = usize::try_from(len).ok()?;
        if len < text.len() {
            text.truncate(len);
            return String::from_utf8(text).ok();
        }
        text.resize(len + 1, 0);
    }
    None
}
