//! `llama-jola with`: runs a program that has its own llama.cpp, with edits in it.
//!
//! The program's llama.cpp is reached by `libjola.so`, which the dynamic linker loads before it
//! (see `docs/serve.md`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context as _, Result};
use clap::Args;
use jola_edit::gguf::Splits;
use jola_edit::{join_specs, parse_spec, EditSet, SPECS_VARIABLE};
use llama_jola::Sidecar;

/// The environment variable that names the library.
const PLUGIN: &str = "JOLA_PLUGIN";
const LIBRARY: &str = "libjola.so";

#[derive(Args)]
pub struct WithArgs {
    /// Sidecars, each with a strength if one is wanted, split on the last colon
    #[arg(value_name = "EDIT.gguf[:STRENGTH]", required = true)]
    edits: Vec<String>,
    /// Program and arguments, after `--`
    #[arg(value_name = "CMD", last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs the command; returns only when it cannot be run.
pub fn run(args: &WithArgs) -> Result<()> {
    let variable = edits(&args.edits)?;
    check_model(&args.command)?;
    let library = find_library()?;
    let (program, rest) = args.command.split_first().context("no program is named")?;
    exec(program, rest, &library, &variable)
}

/// The value of [`SPECS_VARIABLE`]: the sidecars, checked, by absolute paths.
fn edits(specs: &[String]) -> Result<String> {
    let mut sidecars = Vec::new();
    let mut absolute = Vec::new();
    for spec in specs {
        let (path, strength) = parse_spec(spec)?;
        sidecars.push((Sidecar::read(&path)?, strength));
        let path = path.canonicalize().with_context(|| spec.clone())?;
        absolute.push((path, strength));
    }
    let variable = join_specs(&absolute)?;
    let pairs: Vec<(&Sidecar, f32)> = sidecars
        .iter()
        .map(|(s, strength)| (s, *strength))
        .collect();
    EditSet::compose(&pairs)?;
    Ok(variable)
}

/// Looks at the model that the program is given, if it is given one as llama.cpp's programs are:
/// a file that is no model, or not its first, is told in our words and not by key.
fn check_model(command: &[OsString]) -> Result<()> {
    for pair in command.windows(2) {
        let path = Path::new(&pair[1]);
        // `-m` names other things to other programs.
        let gguf = path.extension().is_some_and(|end| end == "gguf") && path.exists();
        if gguf && (pair[0] == "-m" || pair[0] == "--model") {
            Splits::open(path)?;
        }
    }
    Ok(())
}

/// `$JOLA_PLUGIN`, else the library beside the executable or in `../lib`.
fn find_library() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(PLUGIN) {
        let path = PathBuf::from(path);
        return path
            .canonicalize()
            .with_context(|| format!("{PLUGIN} names {}", path.display()));
    }
    let executable = std::env::current_exe()?.canonicalize()?;
    let folder = executable
        .parent()
        .context("the executable has no folder")?;
    let candidates = [folder.join(LIBRARY), folder.join("../lib").join(LIBRARY)];
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.canonicalize()?),
        None => bail!(
            "{LIBRARY} is neither beside {} nor in ../lib: build it with `cargo build --release \
             -p jola-plugin`, or name it in {PLUGIN}",
            executable.display()
        ),
    }
}

#[cfg(target_os = "linux")]
fn exec(program: &OsStr, rest: &[OsString], library: &Path, variable: &str) -> Result<()> {
    use std::os::unix::process::CommandExt as _;

    let name = library.as_os_str().as_encoded_bytes();
    if name.contains(&b' ') || name.contains(&b':') {
        bail!(
            "{}: LD_PRELOAD cannot name a path with a space or a colon",
            library.display()
        );
    }
    let mut preload = library.as_os_str().to_owned();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let error = std::process::Command::new(program)
        .args(rest)
        .env(SPECS_VARIABLE, variable)
        .env("LD_PRELOAD", preload)
        .exec();
    Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}

#[cfg(not(target_os = "linux"))]
fn exec(program: &OsStr, _: &[OsString], library: &Path, variable: &str) -> Result<()> {
    bail!(
        "edits can be brought into {} on Linux only; elsewhere build llama.cpp's user against \
         jola.h (macOS's DYLD_INSERT_LIBRARIES is untested: {SPECS_VARIABLE}={variable}, {})",
        program.to_string_lossy(),
        library.display()
    )
}
