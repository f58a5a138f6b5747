//! Builds the hook: applies `patches/llama-graph.patch` to a copy of llama.cpp's graph
//! builder, compiles it with the hook in one unit and the guarded calls in another, and binds
//! their C headers. `patches/README.md` tells why it is done this way.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{bail, Context, Result};

/// The llama.cpp that the patch was written for; kept with the pin in Cargo.toml.
const PIN: &str = "llama-cpp-sys-2 =0.1.161 (llama.cpp 0.6.0)";

fn main() -> Result<()> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let patches = manifest_dir.join("patches");
    // llama-cpp-sys-2 hands such variables to llama.cpp: scripts/dist/build.sh sets them.
    println!("cargo:rerun-if-env-changed=GGML_AVX2");
    println!("cargo:rustc-check-cfg=cfg(compiled_for_avx2)");
    if env::var("GGML_AVX2").is_ok_and(|value| value == "ON") {
        println!("cargo:rustc-cfg=compiled_for_avx2");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=patches");

    let llama = llama_source()?;
    patch_graph_builder(&llama, &patches.join("llama-graph.patch"), &out_dir)?;
    let includes = [
        patches.clone(),
        llama.join("src"),
        llama.join("include"),
        llama.join("ggml/include"),
    ];
    let units = ["jola-hook.cpp", "jola-calls.cpp"].map(|unit| patches.join(unit));
    compile(&units, &out_dir, &includes)?;
    bind_hook(&patches.join("jola-hook.h"), &out_dir, &includes)?;

    // For the test that applies the patch to the pinned source.
    println!("cargo:rustc-env=LLAMA_CPP_SOURCE={}", llama.display());
    Ok(())
}

/// The source that llama-cpp-sys-2 was built from: its CMake cache names it.
fn llama_source() -> Result<PathBuf> {
    let root = env::var("DEP_LLAMA_ROOT")
        .with_context(|| format!("DEP_LLAMA_ROOT is not set; is the dependency still {PIN}?"))?;
    let cache = Path::new(&root).join("build/CMakeCache.txt");
    let text =
        fs::read_to_string(&cache).with_context(|| format!("reading {}", cache.display()))?;
    let home = text
        .lines()
        .find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="))
        .with_context(|| format!("{} has no CMAKE_HOME_DIRECTORY", cache.display()))?;
    Ok(PathBuf::from(home))
}

/// Writes the patched copy of `src/llama-graph.cpp` to OUT_DIR.
fn patch_graph_builder(llama: &Path, patch: &Path, out_dir: &Path) -> Result<()> {
    let source = llama.join("src/llama-graph.cpp");
    let original =
        fs::read_to_string(&source).with_context(|| format!("reading {}", source.display()))?;
    let text = fs::read_to_string(patch).with_context(|| format!("reading {}", patch.display()))?;
    let parsed = diffy::Patch::from_str(&text)
        .with_context(|| format!("{} is not a unified diff", patch.display()))?;
    match diffy::apply(&original, &parsed) {
        Ok(patched) => fs::write(out_dir.join("llama-graph.cpp"), patched)?,
        Err(error) => bail!(
            "{} does not apply to {}: {error}.\n\
             The patch is written for {PIN}. Either pin that version again in Cargo.toml, or \
             bring the patch up to date as patches/README.md describes.",
            patch.display(),
            source.display(),
        ),
    }
    println!("cargo:rerun-if-changed={}", source.display());
    Ok(())
}

/// Compiles our units for the same CPU as the rest of llama.cpp.
fn compile(units: &[PathBuf], out_dir: &Path, includes: &[PathBuf]) -> Result<()> {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .define("NDEBUG", None)
        .warnings(false)
        .include(out_dir)
        .includes(includes)
        .files(units);
    // What fails names its file, and the program must not depend on where it was built.
    let here = format!("-ffile-prefix-map={}=llama.cpp/src", out_dir.display());
    build.flag_if_supported(here);
    if let Some(cpu) = target_cpu() {
        build.flag_if_supported(format!("-march={cpu}"));
    }
    for flag in sanitizers() {
        build.flag(&flag);
    }
    build
        .try_compile("llama_jola_hook")
        .with_context(|| format!("compiling {units:?} against {PIN}"))
}

/// Flags of gcc for `JOLA_SANITIZE`, such as `address,undefined`: our units are watched, the
/// rest of llama.cpp is not (`scripts/sanitize.sh`).
fn sanitizers() -> Vec<String> {
    println!("cargo:rerun-if-env-changed=JOLA_SANITIZE");
    let Ok(names) = env::var("JOLA_SANITIZE") else {
        return Vec::new();
    };
    // rustc links without gcc's own libraries.
    for library in ["asan", "ubsan"] {
        println!("cargo:rustc-link-lib={library}");
    }
    // llama.cpp's other units have no type information to check virtual calls by.
    vec![
        format!("-fsanitize={names}"),
        "-fno-sanitize=vptr".to_owned(),
        "-fno-sanitize-recover=all".to_owned(),
        "-fno-omit-frame-pointer".to_owned(),
    ]
}

/// `-C target-cpu=…` of this build, as llama-cpp-sys-2 reads it.
fn target_cpu() -> Option<String> {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").ok()?;
    flags.split('\x1f').find_map(|flag| {
        flag.split_once("target-cpu=")
            .map(|(_, cpu)| cpu.to_owned())
    })
}

/// Writes the bindings of `jola-hook.h` and of `jola-calls.h`, which it includes; ggml's and
/// llama.cpp's own types come from llama-cpp-sys-2.
fn bind_hook(header: &Path, out_dir: &Path, includes: &[PathBuf]) -> Result<()> {
    bindgen::Builder::default()
        .header(header.to_string_lossy())
        .clang_args(includes.iter().map(|dir| format!("-I{}", dir.display())))
        .allowlist_item("jola_.*")
        .allowlist_recursively(false)
        .raw_line("use llama_cpp_sys_2::*;")
        .generate()
        .context("binding patches/jola-hook.h")?
        .write_to_file(out_dir.join("hook_bindings.rs"))
        .context("writing the hook's bindings")
}
