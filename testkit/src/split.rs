//! Models in several files, as `llama-gguf-split` writes them.

use std::path::{Path, PathBuf};

use jola_edit::gguf::{Gguf, GgufWriter, Metadata, SPLIT_KEYS};

/// Writes the model to `count` files `NAME-0000I-of-0000N.gguf` in `folder`, with about as many
/// tensors each; all of them, in order.
pub fn split(model: &Path, folder: &Path, name: &str, count: usize) -> Vec<PathBuf> {
    let model = Gguf::open(model).unwrap();
    let total = model.tensors().len();
    let [no, of, tensors] = SPLIT_KEYS;
    let write = |index: usize| {
        let mut metadata = Metadata::new();
        if index == 0 {
            for (key, value) in model.metadata().iter() {
                metadata.insert(key, value.clone()).unwrap();
            }
        }
        metadata.insert(no, index as u16).unwrap();
        metadata.insert(of, count as u16).unwrap();
        metadata.insert(tensors, total as i32).unwrap();
        let mut writer = GgufWriter::new(metadata).unwrap();
        for (at, tensor) in model.iter().enumerate() {
            if at * count / total == index {
                let info = tensor.info;
                writer
                    .add_tensor(info.name.as_str(), info.ty, &info.dims, tensor.bytes)
                    .unwrap();
            }
        }
        let path = folder.join(format!("{name}-{:05}-of-{count:05}.gguf", index + 1));
        writer.write(&path).unwrap();
        path
    };
    (0..count).map(write).collect()
}
