//! Sidecars that a host has loaded where llama.cpp takes a LoRA.
//!
//! For each of them llama.cpp holds an adapter of its own without any tensor: it can be listed,
//! asked for its metadata and freed like any other, and changes nothing. Here is which sidecar
//! it stands for, and what tells real LoRAs apart.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jola_edit::gguf::{Gguf, GgufErrorKind, GgufWriter, Metadata, Role};
use jola_edit::Sidecar;
use sha2::{Digest as _, Sha256};

use crate::host::{LlamaAdapter, LlamaModel};
use crate::request::{Digest, Source};

/// What an adapter of llama.cpp is.
#[derive(Clone, Debug)]
pub enum Adapter {
    /// An empty one that stands for a sidecar.
    StandIn(Arc<Source>),
    /// A real one, told apart by this.
    Lora(Digest),
}

struct Loaded {
    model: usize,
    adapter: Adapter,
}

fn loaded() -> MutexGuard<'static, HashMap<usize, Loaded>> {
    static LOADED: OnceLock<Mutex<HashMap<usize, Loaded>>> = OnceLock::new();
    let loaded = LOADED.get_or_init(Mutex::default);
    loaded.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers what an adapter of `model` is.
pub fn remember(model: *const LlamaModel, handle: *const LlamaAdapter, adapter: Adapter) {
    let model = model.addr();
    loaded().insert(handle.addr(), Loaded { model, adapter });
}

/// Forgets an adapter that is about to be freed.
pub fn forget(handle: *const LlamaAdapter) {
    loaded().remove(&handle.addr());
}

/// Forgets the adapters of a model whose place another model takes: llama.cpp frees them with
/// their model.
pub fn forget_model(model: *const LlamaModel) {
    loaded().retain(|_, loaded| loaded.model != model.addr());
}

/// What an adapter is. One that was loaded in an unknown way is like no other.
pub fn find(handle: *const LlamaAdapter) -> Adapter {
    let known = loaded().get(&handle.addr()).map(|l| l.adapter.clone());
    known.unwrap_or_else(|| Adapter::Lora(unlike_any_other(handle.addr())))
}

/// The sidecars that are loaded for a model.
pub fn of_model(model: *const LlamaModel) -> Vec<Arc<Source>> {
    let loaded = loaded();
    let of_model = loaded.values().filter(|l| l.model == model.addr());
    let stand_ins = of_model.filter_map(|l| match &l.adapter {
        Adapter::StandIn(source) => Some(Arc::clone(source)),
        Adapter::Lora(_) => None,
    });
    stand_ins.collect()
}

/// Whether a file is a sidecar. One that cannot be read is left to llama.cpp.
pub fn is_sidecar(path: &Path) -> bool {
    Gguf::open(path).is_ok_and(|file| Role::of(file.metadata()) == Some(Role::Sidecar))
}

/// What tells a LoRA's file from others without reading it: path, length and time of change. A
/// file that was moved counts as another one, which costs a computation and never an answer.
pub fn lora_digest(path: &Path) -> Digest {
    let Ok(metadata) = path.metadata() else {
        return unlike_any_other(0);
    };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut hash = Sha256::new();
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update(metadata.len().to_le_bytes());
    hash.update(format!("{:?}", metadata.modified().ok()));
    hash.finalize().into()
}

/// A digest that no other process has, and no other address in this one.
fn unlike_any_other(address: usize) -> Digest {
    static PROCESS: OnceLock<String> = OnceLock::new();
    let process = PROCESS.get_or_init(|| {
        let now = std::time::SystemTime::now();
        format!("{} {now:?}", std::process::id())
    });
    Sha256::digest(format!("{process} {address}")).into()
}

/// Writes a LoRA that has the sidecar's name and no tensors.
///
/// # Errors
/// What the system refused.
pub fn write_empty_lora(sidecar: &Sidecar, to: impl Write) -> Result<(), GgufErrorKind> {
    let mut metadata = Metadata::new();
    metadata.insert("general.type", "adapter")?;
    metadata.insert("general.architecture", sidecar.architecture.as_str())?;
    metadata.insert("general.name", sidecar.name.as_str())?;
    metadata.insert("adapter.type", "lora")?;
    metadata.insert("adapter.lora.alpha", 1.0f32)?;
    GgufWriter::new(metadata)?.write_to(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar() -> Sidecar {
        Sidecar {
            architecture: "qwen2".into(),
            name: "polite".into(),
            base_model_name: String::new(),
            block_count: 1,
            head_count: jola_edit::HeadCount::Uniform(1),
            head_dim: 2,
            method: "jola".into(),
            base_sha256: None,
            train: Metadata::new(),
            layers: std::collections::BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn an_empty_lora_is_a_lora_of_the_sidecars_model() {
        let mut bytes = Vec::new();
        write_empty_lora(&sidecar(), &mut bytes).unwrap();
        let read = Gguf::parse(bytes).unwrap();
        assert_eq!(Role::of(read.metadata()), Some(Role::Lora));
        assert_eq!(
            read.metadata().str("general.architecture").unwrap(),
            "qwen2"
        );
        assert_eq!(read.metadata().str("general.name").unwrap(), "polite");
        assert!(read.tensors().is_empty());
    }

    #[test]
    fn adapters_are_those_of_their_model_until_it_goes() {
        let source = Arc::new(Source {
            path: "a.gguf".into(),
            digest: [1; 32],
            sidecar: sidecar(),
        });
        let handle = |address| std::ptr::without_provenance::<LlamaAdapter>(address);
        let model = |address| std::ptr::without_provenance::<LlamaModel>(address);
        let stand_in = || Adapter::StandIn(Arc::clone(&source));
        remember(model(1), handle(10), stand_in());
        remember(model(1), handle(11), Adapter::Lora([2; 32]));
        remember(model(2), handle(12), stand_in());
        assert_eq!(of_model(model(1)).len(), 1);
        assert!(matches!(find(handle(10)), Adapter::StandIn(_)));
        assert!(matches!(find(handle(11)), Adapter::Lora(digest) if digest == [2; 32]));
        forget(handle(10));
        assert!(of_model(model(1)).is_empty());
        let other = |a, b| match (find(handle(a)), find(handle(b))) {
            (Adapter::Lora(a), Adapter::Lora(b)) => a != b,
            _ => false,
        };
        assert!(other(10, 20) && !other(20, 20));
        forget_model(model(2));
        assert!(of_model(model(2)).is_empty());
    }

    #[test]
    fn a_lora_is_told_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&a, "one").unwrap();
        std::fs::write(&b, "one").unwrap();
        assert_eq!(lora_digest(&a), lora_digest(&a));
        assert_ne!(lora_digest(&a), lora_digest(&b));
        let before = lora_digest(&a);
        std::fs::write(&a, "longer").unwrap();
        assert_ne!(lora_digest(&a), before);
        assert!(!is_sidecar(&a));
    }
}
