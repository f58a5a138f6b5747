//! `adapters.c`, compiled and run against shared llama.cpp libraries that others built: sidecars
//! where llama.cpp takes LoRAs.

use jola_edit::gguf::Gguf;
use jola_edit::BaseShape;

use crate::build::{command, compile_with, current, from_source, newest, prebuilt, sidecar, Build};
use testkit::tiny::forms;

/// Longest time of a switch.
const MICROSECONDS: u64 = 1000;

fn run(build: &Build) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let form = forms::all()
        .into_iter()
        .find(|form| form.tiny.architecture == "llama");
    let model = form.expect("a llama").tiny.write(temp.path(), "model");
    let base = BaseShape::from_gguf(&Gguf::open(&model).expect("the model")).expect("its shape");
    let mut other_base = base.clone();
    other_base.block_count += 1;
    other_base.head_count.push(other_base.head_count[0]);
    let edits = [
        sidecar(&base, &[0, 1], &[0], [true, true]),
        sidecar(&base, &[1], &[0, 1], [true, true]),
        sidecar(&other_base, &[1], &[0], [true, false]),
    ];
    let paths = ["edit.gguf", "other.gguf", "wrong.gguf"].map(|name| temp.path().join(name));
    for (edit, path) in edits.iter().zip(&paths) {
        edit.write(path).expect("a sidecar");
    }
    let program = compile_with(build, "adapters", temp.path());
    let output = command(&program, &build.libraries)
        .env("LLAMA_JOLA_LOG", "debug")
        .arg(&model)
        .args(&paths)
        .arg(&build.libraries)
        .arg(temp.path())
        .output()
        .expect("the program runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let wrong = paths[2].display();
    for line in [
        format!("llama-jola: error: no adapter is loaded: {wrong}: "),
        "llama-jola: error: nothing is computed: the edits of layer".to_owned(),
        "llama-jola: error: nothing is computed: edit 0 has the strength NaN".to_owned(),
        "llama-jola: error: sequence 1: what is cached was computed under other edits".to_owned(),
    ] {
        assert!(
            log.lines().any(|found| found.starts_with(&line)),
            "{line}: {log}"
        );
    }
    let (_, switching) = log.split_once("switching begins\n").expect("the mark");
    let switches: Vec<(u64, u64)> = switching.lines().filter_map(switch).collect();
    println!(
        "microseconds and graphs so far of {} switches: {switches:?}",
        switches.len()
    );
    assert_eq!(switches.len(), 20, "{switching}");
    let mut times: Vec<u64> = switches.iter().map(|(time, _)| *time).collect();
    times.sort_unstable();
    assert!(times[times.len() / 2] < MICROSECONDS, "{times:?}");
    // The first token after what came before has a graph of its own; no switch has one.
    let graphs = switches[19].1 - switches[1].1;
    assert_eq!(graphs, 0, "{switches:?}");
}

/// Microseconds of a switch, and how many graphs were built until then.
fn switch(line: &str) -> Option<(u64, u64)> {
    let line = line.strip_prefix("llama-jola: adapters set in ")?;
    let (time, graphs) = line.split_once(" µs; ")?;
    let (graphs, _) = graphs.split_once(' ')?;
    Some((time.parse().ok()?, graphs.parse().ok()?))
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn adapters_of_the_prebuilt_libraries_of_node_llama_cpp() {
    run(&prebuilt());
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn adapters_of_libraries_built_from_the_python_package() {
    run(&from_source());
}

#[test]
#[ignore = "needs the llama.cpp builds that `make test-plugin` installs"]
fn adapters_of_newer_libraries() {
    run(&current());
    run(&newest());
}
