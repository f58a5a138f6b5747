//! Whether edits are used as they were trained: on which weights, with which chat template.
//!
//! Nothing here refuses anything. A request cannot be told from another by what llama.cpp
//! sees of it, so how an edit was trained is said once, for whoever looks for the reason why
//! it does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jola_edit::sidecar::text_sha256;
use jola_edit::BaseWeights;

use crate::host::{LlamaModel, ModelApi};
use crate::log;
use crate::request::Source;
use crate::shape::value;

/// The model's chat template among its metadata.
const TEMPLATE: &str = "tokenizer.chat_template";

/// The files of models, by their addresses.
static FILES: Mutex<BTreeMap<usize, PathBuf>> = Mutex::new(BTreeMap::new());
/// What has been said: hosts create several contexts for one model.
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Remembers which file a model was loaded from.
pub fn loaded(model: *const LlamaModel, file: &Path) {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    files.insert(model.addr(), file.to_owned());
}

/// Logs how the `sidecars` were trained, and warns if `model` is another than the
/// one that they were trained on. Each thing is said once in a process.
///
/// # Safety
/// `model` must be a live model of the llama.cpp that `api` belongs to.
pub unsafe fn tell(api: ModelApi, model: *const LlamaModel, sidecars: &[(Arc<Source>, f32)]) {
    // SAFETY: the caller vouches for `model`.
    let template = unsafe { value(api, model, TEMPLATE) };
    let template = template.as_deref().map(text_sha256);
    let file = {
        let files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        files.get(&model.addr()).cloned()
    };
    // A file that has gone since it was loaded cannot be compared.
    let weights = file.and_then(|file| BaseWeights::read(file).ok());
    for (source, _) in sidecars {
        let (path, sidecar) = (source.path.display(), &source.sidecar);
        if let Some(how) = sidecar.training().describe() {
            once(format!("{path}: {how}"), |text| log::info(text));
        }
        let base = weights.as_ref().and_then(|base| sidecar.doubt_base(base));
        let template = template
            .as_deref()
            .and_then(|template| sidecar.doubt_template(template));
        for doubt in base.into_iter().chain(template) {
            once(format!("{path}: {doubt}"), |text| log::warning(text));
        }
    }
}

fn once(text: String, say: impl FnOnce(&str)) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&text) {
        say(&text);
        said.insert(text);
    }
}
