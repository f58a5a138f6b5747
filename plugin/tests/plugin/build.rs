//! C programs against llama.cpp libraries that others compiled, and sidecars to run them with.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use jola_edit::{BaseShape, HeadVectors, LayerEdit, Sidecar};
use testkit::variable;

/// A llama.cpp that `make test-plugin` installs.
pub struct Build {
    /// The folder of its shared libraries.
    pub libraries: PathBuf,
    /// Its source, which has the headers.
    source: PathBuf,
}

fn of_hosts(libraries: &str, source: &str) -> Build {
    let hosts = variable("JOLA_CACHE").join("hosts");
    Build {
        libraries: hosts.join(libraries),
        source: hosts.join(source),
    }
}

/// llama.cpp 0.5.0 in node-llama-cpp, with the headers of the same version.
pub fn prebuilt() -> Build {
    let bins = "node/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64";
    of_hosts(bins, "python/source/vendor/llama.cpp")
}

/// The same, compiled by pip.
pub fn from_source() -> Build {
    of_hosts("python/build/bin", "python/source/vendor/llama.cpp")
}

/// llama.cpp b11549, whose context parameters have another layout.
pub fn current() -> Build {
    of_hosts("current/build/bin", "current/source")
}

/// llama.cpp 0.8.0, which rotates a quantised cache in another way and knows folded weights.
pub fn newest() -> Build {
    of_hosts("newest/build/bin", "newest/source")
}

/// A sidecar of `base` with the same made-up numbers for `heads` of each of `layers`.
pub fn sidecar(base: &BaseShape, layers: &[u32], heads: &[u32], halves: [bool; 2]) -> Sidecar {
    let head_dim = base.head_dim;
    let vectors = |scale: f32| HeadVectors {
        heads: heads.to_vec(),
        values: (0..heads.len() as u32 * head_dim)
            .map(|i| scale * (i as f32).sin())
            .collect(),
    };
    let [mul, add] = halves;
    let edit = LayerEdit {
        mul: mul.then(|| vectors(0.5)),
        add: add.then(|| vectors(0.1)),
    };
    base.sidecar(
        "random",
        layers.iter().map(|&layer| (layer, edit.clone())).collect(),
    )
}

/// The file in `folder` whose name starts and ends so, the shortest one.
fn library(folder: &Path, start: &str) -> PathBuf {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder's entry").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(start) && name.ends_with(".so")
        })
        .collect();
    names.sort_by_key(|path| path.as_os_str().len());
    let missing = || {
        panic!(
            "no {start}*.so in {}: run `make test-plugin`",
            folder.display()
        )
    };
    names.into_iter().next().unwrap_or_else(missing)
}

/// Compiles `tests/<name>.c` into `to`.
pub fn compile(name: &str, arguments: &[OsString], to: &Path) -> PathBuf {
    compile_file(&test_source(name), arguments, to)
}

/// Compiles `tests/<name>.c` into `to`, linked with libjola and the llama.cpp of `build`.
pub fn compile_with(build: &Build, name: &str, to: &Path) -> PathBuf {
    compile_source(build, &test_source(name), to)
}

/// The same for any C or C++ file.
pub fn compile_source(build: &Build, file: &Path, to: &Path) -> PathBuf {
    let Build { libraries, source } = build;
    let arguments = [
        "-I".into(),
        source.join("include").into(),
        "-I".into(),
        source.join("ggml/include").into(),
        crate::library().into(), // before llama.cpp: its functions come first
        library(libraries, "libllama.").into(),
        library(libraries, "libggml.").into(),
        library(libraries, "libggml-base.").into(),
        "-lm".into(),
        "-Wl,--allow-shlib-undefined".into(),
    ];
    compile_file(file, &arguments, to)
}

fn test_source(name: &str) -> PathBuf {
    crate::package().join(format!("tests/{name}.c"))
}

/// Flags of the compiler for `JOLA_SANITIZE`, such as `address,undefined`
/// (`scripts/sanitize.sh`). They watch the program, and whatever memory libjola and llama.cpp
/// take, hand to each other and give back, since all of it then comes from the sanitizer.
fn sanitizers() -> Vec<String> {
    let Ok(names) = std::env::var("JOLA_SANITIZE") else {
        return Vec::new();
    };
    vec![
        format!("-fsanitize={names}"),
        "-fno-sanitize-recover=all".to_owned(),
        "-g".to_owned(),
    ]
}

fn compile_file(file: &Path, arguments: &[OsString], to: &Path) -> PathBuf {
    let program = to.join(file.file_stem().expect("a file"));
    let (compiler, standard) = match file.extension().is_some_and(|end| end == "cpp") {
        true => ("c++", "-std=c++17"),
        false => ("cc", "-std=c11"),
    };
    let status = Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Werror"])
        .args(sanitizers())
        .arg("-o")
        .arg(&program)
        .arg(file)
        .arg("-I")
        .arg(crate::package())
        .args(arguments)
        .status()
        .expect("a compiler");
    assert!(status.success(), "{} does not compile", file.display());
    program
}

/// A command that runs `program` with the libraries in `libraries` and without edits.
pub fn command(program: &Path, libraries: &Path) -> Command {
    let library = crate::library();
    let paths = [libraries, library.parent().expect("a folder")];
    let mut command = testkit::command(program);
    command.env(
        "LD_LIBRARY_PATH",
        std::env::join_paths(paths).expect("paths"),
    );
    command
}
