//! `llama-jola with`: runs a program that has its own llama.cpp, with edits in it.
//!
//! The program's llama.cpp is reached by `libjola.so`, which the dynamic linker loads before it
//! (see `docs/serve.md`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
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
#[command(
    after_long_help = "A sidecar goes wherever the program takes a LoRA:\n\n    \
        llama-jola with -- llama-server -m base.gguf --lora a.gguf --lora-scaled b.gguf:0\n\n\
        and is then chosen per request (\"lora\": [{\"id\": 0, \"scale\": 1}]) or by POST \
        /lora-adapters. Sidecars that are named before the `--` are at work in every request."
)]
pub struct WithArgs {
    /// Sidecars for every request, each with a strength if one is wanted, split on the last colon
    #[arg(value_name = "EDIT.gguf[:STRENGTH]")]
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
    if found(program).is_some_and(|path| is_static(&path).unwrap_or(false)) {
        eprintln!(
            "warning: {} is linked statically: the edits do not reach it, only programs that it \
             starts (docs/serve.md says what to do)",
            program.to_string_lossy()
        );
    }
    exec(program, rest, &library, variable.as_deref())
}

/// The value of [`SPECS_VARIABLE`]: the sidecars, checked, by absolute paths; none without
/// sidecars.
fn edits(specs: &[String]) -> Result<Option<String>> {
    if specs.is_empty() {
        return Ok(None);
    }
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
    Ok(Some(variable))
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

/// The program's file, as the system finds it.
fn found(program: &OsStr) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let folders = std::env::var_os("PATH")?;
    let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(program));
    paths.find(|path| path.is_file())
}

/// Whether a file is a program of 64 bits (ELF) that names no dynamic linker, which is what
/// brings the library in.
fn is_static(path: &Path) -> std::io::Result<bool> {
    const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
    let mut file = File::open(path)?;
    let mut header = [0; 64];
    file.read_exact(&mut header)?;
    // Of 64 bits, the lower byte first.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(false);
    }
    let number = |bytes: &[u8]| {
        let bytes = bytes.iter().rev();
        bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let (table, entry, count) = (
        number(&header[32..40]),
        number(&header[54..56]),
        number(&header[56..58]),
    );
    file.seek(SeekFrom::Start(table))?;
    let mut entries = Vec::new();
    file.take(entry * count).read_to_end(&mut entries)?;
    let size = usize::try_from(entry).unwrap_or(0).max(1);
    Ok(!entries
        .chunks(size)
        .any(|entry| entry.starts_with(&PT_INTERP)))
}

#[cfg(target_os = "linux")]
fn exec(program: &OsStr, rest: &[OsString], library: &Path, variable: Option<&str>) -> Result<()> {
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
        .envs(variable.map(|variable| (SPECS_VARIABLE, variable)))
        .env("LD_PRELOAD", preload)
        .exec();
    Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}

#[cfg(not(target_os = "linux"))]
fn exec(program: &OsStr, _: &[OsString], library: &Path, variable: Option<&str>) -> Result<()> {
    bail!(
        "edits can be brought into {} on Linux only; elsewhere build llama.cpp's user against \
         jola.h (macOS's DYLD_INSERT_LIBRARIES is untested: {SPECS_VARIABLE}={}, {})",
        program.to_string_lossy(),
        variable.unwrap_or_default(),
        library.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_dynamic_linker_is_static() {
        // A header, and a table of two entries of 56 bytes of these kinds behind it.
        let program = |kinds: [u8; 2]| {
            let mut bytes = vec![0; 64 + 2 * 56];
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (bytes[32], bytes[54], bytes[56]) = (64, 56, 2);
            (bytes[64], bytes[64 + 56]) = (kinds[0], kinds[1]);
            bytes
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let said = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            is_static(&path).unwrap_or(false)
        };
        assert!(said(&program([1, 2])));
        assert!(!said(&program([1, 3])));
        let script = [b"#!/bin/sh\n".as_slice(), &[b'#'; 99]].concat();
        assert!(!said(&script));
        assert!(!said(b"#!/bin/sh\n"));
    }

    #[test]
    fn a_program_is_found_as_the_system_finds_it() {
        assert_eq!(found(OsStr::new("./a")), Some("./a".into()));
        assert!(found(OsStr::new("sh")).unwrap().ends_with("sh"));
        assert_eq!(found(OsStr::new("no-such-program")), None);
    }
}
