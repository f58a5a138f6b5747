//! The part of libtorch that computes on GPUs: loaded here, and asked what there is.
//!
//! Nothing in a program refers to `libtorch_cuda.so` by name, so that no linker keeps it, and
//! without it libtorch sees no GPU. Which libtorch a program has is known when it runs.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tch::Cuda;

/// libtorch's libraries for GPUs, of which a build has one at most: NVIDIA's and AMD's.
const GPU_LIBRARIES: [&str; 2] = ["libtorch_cuda.so", "libtorch_hip.so"];

/// What became of the library for GPUs.
enum Loaded {
    /// It is there.
    Yes,
    /// libtorch in this folder has none.
    Absent(PathBuf),
    /// The dynamic linker refuses it.
    Refused(String),
    /// It is not known which libtorch this is, as on other systems than Linux.
    Unknown,
}

/// Loads libtorch's part for GPUs, if it has not been.
pub(crate) fn load() {
    loaded();
}

/// How many GPUs libtorch can compute on.
pub(crate) fn count() -> usize {
    loaded();
    Cuda::device_count().max(0) as usize
}

/// Why libtorch sees no GPU though the machine has one; `None` where it sees one or there is
/// none.
pub(crate) fn unseen() -> Option<String> {
    if count() > 0 || !has_driver() {
        return None;
    }
    Some(match loaded() {
        Loaded::Absent(folder) => format!(
            "the libtorch in {} is built for CPUs: `scripts/setup.sh cuda` installs one for GPUs, \
             and LIBTORCH names its folder",
            folder.display()
        ),
        Loaded::Refused(reason) => format!("libtorch's part for GPUs cannot be loaded: {reason}"),
        Loaded::Yes | Loaded::Unknown => format!(
            "the driver{} is too old for this libtorch, or CUDA_VISIBLE_DEVICES hides the GPU",
            driver_version().map_or(String::new(), |version| format!(" {version}"))
        ),
    })
}

/// Bytes that are free on GPU `index`; `None` where CUDA does not say.
pub(crate) fn free_memory(index: usize) -> Option<u64> {
    #[cfg(unix)]
    if count() > index {
        type SetDevice = unsafe extern "C" fn(i32) -> i32;
        type MemGetInfo = unsafe extern "C" fn(*mut usize, *mut usize) -> i32;
        let program = libloading::os::unix::Library::this();
        // SAFETY: these are the signatures of CUDA's runtime, which libtorch has loaded.
        let functions = unsafe {
            (
                program.get::<SetDevice>(b"cudaSetDevice\0"),
                program.get::<MemGetInfo>(b"cudaMemGetInfo\0"),
            )
        };
        let (Ok(set_device), Ok(get_info)) = functions else {
            return None;
        };
        let (mut free, mut total) = (0, 0);
        // SAFETY: the index is one that CUDA counts, and the pointers are to live numbers.
        let failed =
            unsafe { set_device(index as i32) != 0 || get_info(&mut free, &mut total) != 0 };
        return (!failed).then_some(free as u64);
    }
    let _ = index;
    None
}

/// Loads libtorch's part for GPUs, once.
fn loaded() -> &'static Loaded {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    LOADED.get_or_init(find_and_open)
}

fn find_and_open() -> Loaded {
    let Some(folder) = own_libtorch() else {
        return Loaded::Unknown;
    };
    let files = GPU_LIBRARIES.map(|name| folder.join(name));
    let Some(file) = files.iter().find(|file| file.is_file()) else {
        return Loaded::Absent(folder);
    };
    open(file)
}

#[cfg(unix)]
fn open(file: &Path) -> Loaded {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: libtorch's own library, whose initialisers register it with the libtorch that is
    // loaded already, before anything has asked that one for GPUs.
    match unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // It stays for as long as libtorch does.
            std::mem::forget(library);
            Loaded::Yes
        }
        Err(error) => Loaded::Refused(error.to_string()),
    }
}

#[cfg(not(unix))]
fn open(_: &Path) -> Loaded {
    Loaded::Unknown
}

/// The folder of the libtorch that this program has loaded.
fn own_libtorch() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let files = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let of_libtorch = |file: &&Path| {
        file.file_name()
            .is_some_and(|name| name == "libtorch_cpu.so")
    };
    let library = files.into_iter().find(|file| of_libtorch(file))?;
    library.parent().map(Path::to_path_buf)
}

/// Whether the driver of an NVIDIA GPU is at work here.
fn has_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidiactl").exists()
}

/// The version of NVIDIA's driver.
fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let line = text.lines().next()?;
    let is_version =
        |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    line.split_whitespace().find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_libtorch_of_this_program_is_found() {
        let folder = own_libtorch().expect("this test links libtorch");
        assert!(folder.join("libtorch_cpu.so").is_file());
    }

    #[test]
    fn a_machine_without_a_gpu_has_nothing_to_complain_of() {
        if !has_driver() {
            assert_eq!((count(), unseen(), free_memory(0)), (0, None, None));
        }
    }
}
