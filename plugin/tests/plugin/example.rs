//! The C program in `examples/`: it compiles and links here, and runs in `make test-plugin`.

use std::path::Path;
use std::process::Command;

use jola_edit::gguf::Gguf;
use jola_edit::BaseShape;
use testkit::{base_model, llama_cpp, repository, Folder};

use crate::build::{command, compile_source, from_source, sidecar};

fn source() -> std::path::PathBuf {
    repository("examples/c/switch.c")
}

/// Against the headers of the llama.cpp that is built in. What is missing at the end are its
/// functions alone, which the shared libraries of another llama.cpp would bring.
#[test]
fn it_compiles_and_links_with_the_header_and_the_library() {
    let folder = Folder::new();
    let llama_cpp = llama_cpp();
    let output = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(folder.path("switch"))
        .arg(source())
        .arg("-I")
        .arg(crate::package())
        .arg("-I")
        .arg(llama_cpp.join("include"))
        .arg("-I")
        .arg(llama_cpp.join("ggml/include"))
        .arg(crate::library())
        .arg("-Wl,--warn-unresolved-symbols")
        .output()
        .expect("cc");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let missing: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once("undefined reference to `"))
        .map(|(_, name)| name.trim_end_matches('\''))
        .collect();
    assert!(missing.contains(&"llama_tokenize"), "{said}");
    // libjola stands in for this one, which is why it is linked first.
    assert!(!missing.contains(&"llama_decode"), "{said}");
    let of_llama = |name: &&str| name.starts_with("llama_") || name.starts_with("ggml_");
    assert!(missing.iter().all(of_llama), "{said}");
}

/// Without, with, and again without the edit.
fn answers(program: &Path, libraries: &Path, edit: &Path) -> Vec<String> {
    let output = command(program, libraries)
        // ggml looks for its loadable backends here too.
        .current_dir(libraries)
        .arg(base_model())
        .arg(edit)
        .arg("Message: Where is my parcel?\nTeam:")
        .output()
        .expect("the program runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let shown = String::from_utf8(output.stdout).expect("a text");
    shown.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn it_writes_otherwise_while_the_edit_is_set() {
    let folder = Folder::new();
    let build = from_source();
    let program = compile_source(&build, &source(), folder.root());
    let gguf = Gguf::open(base_model()).expect("the base model");
    let base = BaseShape::from_gguf(&gguf).expect("its shape");
    let all: Vec<u32> = (0..base.block_count).collect();
    let edit = folder.path("edit.gguf");
    sidecar(&base, &all, &[0, 2], [true, true])
        .write(&edit)
        .expect("a sidecar");
    let shown = answers(&program, &build.libraries, &edit);
    println!("{shown:?}");
    let [plain, edited, again] = &shown[..] else {
        panic!("three lines, not {shown:?}");
    };
    assert!(!plain.trim().is_empty() && plain == again && plain != edited);
}
