//! Starts the trainer, `jola-train-core`, with libtorch found for it.
//!
//! A program that links libtorch ends in the dynamic loader, before its first line, where
//! libtorch is missing. This one links nothing, so it can say what to do.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Variable that names the folders of shared libraries.
const LIBRARY_PATH: &str = if cfg!(target_os = "macos") {
    "DYLD_LIBRARY_PATH"
} else {
    "LD_LIBRARY_PATH"
};
/// The part of libtorch that every build of it has.
const CPU_LIBRARY: &str = if cfg!(target_os = "macos") {
    "libtorch_cpu.dylib"
} else {
    "libtorch_cpu.so"
};
/// The libtorch at build time, but in a program for other machines.
const BUILT_WITH: Option<&str> = match option_env!("JOLA_DIST") {
    Some(_) => None,
    None => option_env!("LIBTORCH"),
};
/// How many compiled matrix products oneDNN and libtorch's layer above it keep, each in a cache of
/// its own: more than the shapes of one step. They keep 1,024 unless they are told otherwise, of
/// about a megabyte each, and rows of many lengths make new shapes in every step: in bfloat16 a
/// run of a 135M base took 0.6 GiB more after 196 steps (`research/runs/2026-11-27-memory`).
const KEPT_PRODUCTS: &str = "16";
const PRODUCT_CACHES: [&str; 2] = ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"];
const REMEDY: &str = "Run `make build` in the project's folder, which downloads it, or \
                      `pip install 'torch==2.13.*'` beside the Python package jola-trainer, or set \
                      LIBTORCH to the folder of an unpacked libtorch 2.13.";

fn main() -> ExitCode {
    let Err(message) = start();
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

/// Becomes the trainer; returns only what went wrong.
fn start() -> Result<std::convert::Infallible, String> {
    let own = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let folder = own.parent().unwrap_or(Path::new("."));
    let core = folder.join("jola-train-core");
    if !core.is_file() {
        return Err(format!(
            "{} is missing: build both programs of the trainer",
            core.display()
        ));
    }
    let library = find_libtorch(folder)?;
    let mut command = Command::new(&core);
    command.args(env::args_os().skip(1));
    command.env(LIBRARY_PATH, joined(&library, LIBRARY_PATH));
    for cache in PRODUCT_CACHES {
        if env::var_os(cache).is_none() {
            command.env(cache, KEPT_PRODUCTS);
        }
    }
    Err(format!(
        "cannot start {}: {}",
        core.display(),
        command.exec()
    ))
}

/// The folder that holds libtorch's libraries: the one in the environment, else the one at
/// build time, one that the loader searches anyway, or the one where this program lies.
fn find_libtorch(own_folder: &Path) -> Result<PathBuf, String> {
    let holds = |folder: &PathBuf| folder.join(CPU_LIBRARY).is_file();
    if let Some(root) = env::var_os("LIBTORCH") {
        let folder = Path::new(&root).join("lib");
        let missing = || {
            format!(
                "LIBTORCH: {} has no {CPU_LIBRARY}.\n{REMEDY}",
                folder.display()
            )
        };
        return Some(folder.clone()).filter(holds).ok_or_else(missing);
    }
    let built = BUILT_WITH.map(|root| Path::new(root).join("lib"));
    let searched = env::var_os(LIBRARY_PATH).unwrap_or_default();
    let searched: Vec<PathBuf> = env::split_paths(&searched).collect();
    let own = [own_folder.to_path_buf(), own_folder.join("lib")];
    let mut folders = built.into_iter().chain(searched).chain(own);
    let missing = || format!("libtorch is not there ({CPU_LIBRARY} was looked for).\n{REMEDY}");
    folders.find(holds).ok_or_else(missing)
}

/// `first` before what the variable already lists.
fn joined(first: &Path, variable: &str) -> OsString {
    let mut list = first.as_os_str().to_owned();
    if let Some(rest) = env::var_os(variable).filter(|rest| !rest.is_empty()) {
        list.push(":");
        list.push(rest);
    }
    list
}
