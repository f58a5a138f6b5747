//! The trainer's command lines, and what both engines compute on.

use std::path::Path;

use testkit::logits::{run, spec, Edits, Logits};
use testkit::{program, text, Cli, THREADS};

/// A command line of `jola-train`. It starts `jola-train-core`, so both must be current.
pub fn jola_train() -> Cli {
    program("jola-train-core");
    Cli::new(&program("jola-train"))
}

/// `jola-train logits -m MODEL` with the tests' number of threads.
pub fn jola_train_logits(model: &Path) -> Cli {
    jola_train()
        .args(["logits", "-t", THREADS, "-m"])
        .args([model])
}

/// A short training on `data`.
pub fn train(model: &Path, data: &Path, out: &Path) -> Cli {
    jola_train()
        .args(["-m", text(model), "--data", text(data), "-o", text(out)])
        .args(["--steps", "1", "--limit", "4", "--lr", "0.1", "-t", THREADS])
}

/// What `jola-train logits` writes.
pub fn of_trainer(model: &Path, tokens: &[i32], edits: Edits<'_>) -> Logits {
    let mut cli = jola_train_logits(model);
    for (path, strength) in edits {
        cli = cli.args(["--jola".into(), spec(path, *strength)]);
    }
    run(cli, tokens)
}

/// The F32 copy of the base model, made once and kept in the cache.
pub fn f32_base() -> &'static Path {
    testkit::f32_base(llama_jola::ggml::dequantize)
}
