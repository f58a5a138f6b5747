//! A model in 32-bit floats: with it llama.cpp rounds nothing but single floats, so that it
//! can be compared tightly.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use jola_edit::gguf::{Gguf, GgufWriter, Metadata, Tensor, TensorData, F32};
use jola_edit::sidecar::sha256;

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

/// The F32 copy of `base`, made once and kept in `folder`; a file beside it says of which
/// bytes it is the copy, and which bytes it has. `dequantize` turns one row of a ggml type into
/// floats; llama.cpp's own function belongs there.
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
    let stamp = path.with_extension("sha256");
    let digests = || Ok::<_, std::io::Error>(format!("{} {}\n", sha256(base)?, sha256(&path)?));
    if path.is_file() && std::fs::read_to_string(&stamp).ok() == Some(digests()?) {
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
    std::fs::write(stamp, digests()?)?;
    Ok(path)
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

#[cfg(test)]
mod tests {
    use super::f32_copy;
    use crate::tiny::forms;
    use crate::Folder;

    /// By its bytes, whatever its name and its time.
    #[test]
    fn a_copy_that_is_not_of_the_base_is_made_anew() {
        let folder = Folder::new();
        let base = forms::all()[0].tiny.write(folder.root(), "base");
        let copy = || {
            let nothing = |_: u32, bytes: &[u8], out: &mut [f32]| {
                let floats = bytes.chunks_exact(4).map(|b| b.try_into().unwrap());
                out.iter_mut()
                    .zip(floats)
                    .for_each(|(to, from)| *to = f32::from_le_bytes(from));
                Ok::<(), std::io::Error>(())
            };
            f32_copy(&base, folder.root(), nothing).unwrap()
        };
        let path = copy();
        let made = std::fs::read(&path).unwrap();
        let mut damaged = made.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(std::fs::read(copy()).unwrap() == made);

        // Another base under the same name, with the same shapes, older than the copy.
        let mut other = forms::all()[0].tiny.clone();
        other.scale(".weight", 2.0);
        other.write(folder.root(), "base");
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        let file = std::fs::File::options().write(true).open(&base).unwrap();
        file.set_modified(long_ago).unwrap();
        assert!(std::fs::read(copy()).unwrap() != made);
    }
}
