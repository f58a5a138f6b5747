//! More sets than memory holds: the system refuses, and only what needed more fails.

use jola_edit::graph::GraphError;
use jola_edit::EditSet;
use llama_jola::{Error, LoadedEdits};
use testkit::command;

use super::library::{context, last, layers, model, tokens};
use super::{edits, Parts};

/// Set in the process whose memory is limited, which no other test shares.
const INSIDE: &str = "JOLA_TEST_LIMITED";
const NAME: &str = "sets::memory::more_sets_than_memory_holds_fail_alone";
/// What the process may take beyond what it has.
const MORE: u64 = 64 << 20;

#[test]
fn more_sets_than_memory_holds_fail_alone() {
    if std::env::var_os(INSIDE).is_some() {
        return within_a_limit();
    }
    let output = command(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{told}");
    assert!(
        said.contains("1 passed") && said.contains(REFUSED),
        "{said}"
    );
}

const REFUSED: &str = "could not allocate";

fn within_a_limit() {
    let (model, layers) = (model(), layers());
    let tokens = tokens(&model);
    let set = |seed| edits(seed, &layers, Parts::Both);
    let mut context = context(&model);
    context.set_edits_of(1, &set(0)).unwrap();
    let before = last(&mut context, 1, &tokens, 0);
    context.truncate_sequence(1, tokens.len() - 1);

    limit_memory(Some(MORE));
    let mut kept: Vec<LoadedEdits> = Vec::new();
    let refused = loop {
        let (n, bytes) = (context.n_loaded_edits(), context.loaded_edits_bytes());
        match context.load_edits(&set(n as u64)) {
            Ok(loaded) => kept.push(loaded),
            Err(error) => {
                assert_eq!(
                    (context.n_loaded_edits(), context.loaded_edits_bytes()),
                    (n, bytes)
                );
                break error;
            }
        }
        assert!(bytes < MORE as usize, "{n} sets and no error");
    };
    let wanted = match &refused {
        Error::Graph(GraphError::Alloc { bytes, layers: 30 }) => *bytes,
        other => panic!("{other:?}"),
    };
    assert_eq!(wanted / 2 / context.loaded_edits_bytes(), 0);
    assert!(wanted > context.loaded_edits_bytes() && refused.to_string().contains(REFUSED));
    println!("{} sets, then: {refused}", context.n_loaded_edits());

    // All goes on, with what is cached.
    let one_more = set(1 << 20);
    let error = context.set_edits_of(1, &one_more).unwrap_err();
    assert!(matches!(error, Error::Graph(GraphError::Alloc { .. })));
    let n = tokens.len();
    assert!(last(&mut context, 1, &tokens, n - 1).len() == before.len());
    context.truncate_sequence(1, 0);
    assert!(last(&mut context, 1, &tokens, 0) == before);
    // There is room where another was.
    drop(kept.pop());
    context.set_edits_of(2, &one_more).unwrap();
    let edited = last(&mut context, 2, &tokens, 0);
    // With memory, the same call succeeds.
    limit_memory(None);
    let last_of_all = set(2 << 20);
    context.set_edits_of(1, &last_of_all).unwrap();
    let found = [1, 2].map(|sequence| {
        context.truncate_sequence(sequence, 0);
        last(&mut context, sequence, &tokens, 0)
    });
    let mut alone = super::library::context(&model);
    let expected = [&last_of_all, &one_more].map(|set: &EditSet| {
        alone.set_edits(set).unwrap();
        last(&mut alone, 0, &tokens, 0)
    });
    assert!(found == expected && edited == found[1]);
}

/// Lets the process take so many bytes more than it has, or as many as it likes.
fn limit_memory(more: Option<u64>) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    let limit = libc::rlimit {
        rlim_cur: more.map_or(libc::RLIM_INFINITY, |more| kib * 1024 + more),
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a plain call with a live structure.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}
