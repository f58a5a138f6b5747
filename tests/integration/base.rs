//! The base model in 32-bit floats: with it llama.cpp rounds nothing but single floats, so
//! that it can be compared tightly.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jola_edit::gguf::{Gguf, GgufWriter, Metadata, TensorData, F32};
use llama_jola::ggml;

use crate::common;

/// `general.file_type` of a model whose tensors are all F32 (llama.cpp's `ALL_F32`).
const ALL_F32: u32 = 0;
const FILE_TYPE: &str = "general.file_type";

/// The F32 copy of the base model, made once and kept in the cache.
pub fn f32_copy() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let base = common::base_model();
        let stem = base.file_stem().expect("a file").to_string_lossy();
        let path = common::cache().join(format!("{stem}.F32.gguf"));
        if !is_copy(&path, &base) {
            write_copy(&path, &base);
        }
        path
    })
}

/// Whether `path` is a complete F32 copy that is not older than `base`. The writer renames
/// only complete files, and opening checks that all tensors are inside the file.
fn is_copy(path: &Path, base: &Path) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let Ok(copy) = Gguf::open(path) else {
        return false;
    };
    let base_file = Gguf::open(base).unwrap();
    modified(path) >= modified(base)
        && copy.metadata().len() == base_file.metadata().len()
        && copy.tensors().len() == base_file.tensors().len()
        && copy
            .tensors()
            .iter()
            .zip(base_file.tensors())
            .all(|(copy, base)| (copy.ty, &copy.name, &copy.dims) == (F32, &base.name, &base.dims))
}

fn write_copy(path: &Path, base: &Path) {
    let base = Gguf::open(base).unwrap();
    let mut metadata = Metadata::new();
    for (key, value) in base.metadata().iter() {
        match key {
            FILE_TYPE => metadata.insert(key, ALL_F32),
            _ => metadata.insert(key, value.clone()),
        }
        .unwrap();
    }
    let mut writer = GgufWriter::new(metadata).unwrap();
    for tensor in base.iter() {
        let name = tensor.info.name.clone();
        let dims = &tensor.info.dims;
        let data = TensorData::stream(move |out| write_floats(&tensor, out));
        writer.add_tensor(name, F32, dims, data).unwrap();
    }
    writer.write(path).unwrap();
}

fn write_floats(tensor: &jola_edit::gguf::Tensor<'_>, out: &mut dyn Write) -> io::Result<()> {
    let row = tensor.info.dims[0] as usize;
    let rows = tensor.info.elements() as usize / row;
    let mut floats = vec![0f32; row];
    for bytes in tensor.bytes.chunks_exact(tensor.bytes.len() / rows) {
        ggml::dequantize(tensor.info.ty, bytes, &mut floats).map_err(io::Error::other)?;
        for value in &floats {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(())
}
