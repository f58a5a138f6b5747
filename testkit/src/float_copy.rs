//! A model in 32-bit floats: with it llama.cpp rounds nothing but single floats, so that it
//! can be compared tightly.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use jola_edit::gguf::{Gguf, GgufWriter, Metadata, Tensor, TensorData, F32};

/// `general.file_type` of a model whose tensors are all F32 (llama.cpp's `ALL_F32`).
const ALL_F32: u32 = 0;
const FILE_TYPE: &str = "general.file_type";

/// The F32 copy of the base model, see [`f32_copy`].
pub fn f32_base<E>(
    dequantize: impl Fn(u32, &[u8], &mut [f32]) -> Result<(), E> + Copy,
) -> &'static Path
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let copy = f32_copy(&crate::base_model(), &crate::cache(), dequantize);
        copy.unwrap_or_else(|e| panic!("the base model in 32-bit floats: {e:#}"))
    })
}

/// The F32 copy of `base`, made once and kept in `folder`. `dequantize` turns one row of a
/// ggml type into floats; llama.cpp's own function belongs there.
///
/// # Errors
/// When the model cannot be read or the copy not be written.
pub fn f32_copy<E>(
    base: &Path,
    folder: &Path,
    dequantize: impl Fn(u32, &[u8], &mut [f32]) -> Result<(), E> + Copy,
) -> Result<PathBuf>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stem = base.file_stem().context("the model has no name")?;
    let path = folder.join(format!("{}.F32.gguf", stem.to_string_lossy()));
    let file = Gguf::open(base)?;
    if is_copy(&path, base, &file) {
        return Ok(path);
    }
    let mut metadata = Metadata::new();
    for (key, value) in file.metadata().iter() {
        match key {
            FILE_TYPE => metadata.insert(key, ALL_F32)?,
            _ => metadata.insert(key, value.clone())?,
        };
    }
    let mut writer = GgufWriter::new(metadata)?;
    for tensor in file.iter() {
        let name = tensor.info.name.clone();
        let dims = &tensor.info.dims;
        let data = TensorData::stream(move |out| write_floats(&tensor, dequantize, out));
        writer.add_tensor(name, F32, dims, data)?;
    }
    std::fs::create_dir_all(folder)?;
    writer.write(&path)?;
    Ok(path)
}

/// Whether `path` is a complete F32 copy that is not older than `base`. The writer renames
/// only complete files, and opening checks that all tensors are inside the file.
fn is_copy(path: &Path, base: &Path, file: &Gguf) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let Ok(copy) = Gguf::open(path) else {
        return false;
    };
    modified(path) >= modified(base)
        && copy.metadata().len() == file.metadata().len()
        && copy.tensors().len() == file.tensors().len()
        && copy
            .tensors()
            .iter()
            .zip(file.tensors())
            .all(|(copy, base)| (copy.ty, &copy.name, &copy.dims) == (F32, &base.name, &base.dims))
}

fn write_floats<E>(
    tensor: &Tensor<'_>,
    dequantize: impl Fn(u32, &[u8], &mut [f32]) -> Result<(), E>,
    out: &mut dyn Write,
) -> io::Result<()>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let row = tensor.info.dims[0] as usize;
    let rows = tensor.info.elements() as usize / row;
    let mut floats = vec![0f32; row];
    for bytes in tensor.bytes.chunks_exact(tensor.bytes.len() / rows) {
        dequantize(tensor.info.ty, bytes, &mut floats).map_err(io::Error::other)?;
        for value in &floats {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(())
}
