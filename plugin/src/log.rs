//! Lines on stderr. Errors and warnings always appear, the rest when `LLAMA_JOLA_LOG` asks for it.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What `LLAMA_JOLA_LOG` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Error,
    Info,
    Debug,
}

fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| match std::env::var("LLAMA_JOLA_LOG").as_deref() {
        Ok("info") => Level::Info,
        Ok("debug") => Level::Debug,
        _ => Level::Error,
    })
}

fn line(text: impl Display) {
    // One write, so that lines of other threads do not mix in; there is nobody to tell when
    // stderr is closed.
    let _ = std::io::stderr().write_all(format!("llama-jola: {text}\n").as_bytes());
}

/// What went wrong; always shown, but not again right after: hosts try several times.
pub fn error(text: impl Display) {
    static LAST: Mutex<String> = Mutex::new(String::new());
    let text = text.to_string();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if *last != text {
        line(format_args!("error: {text}"));
        *last = text;
    }
}

/// What may not be what the user meant; always shown.
pub fn warning(text: impl Display) {
    line(format_args!("warning: {text}"));
}

/// What a user may want to know; shown at `info` and `debug`.
pub fn info(text: impl Display) {
    if level() >= Level::Info {
        line(text);
    }
}

/// What a developer may want to know; shown at `debug`.
pub fn debug(text: impl Display) {
    if level() >= Level::Debug {
        line(text);
    }
}
