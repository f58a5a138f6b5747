//! llama.cpp's log.
//!
//! llama.cpp reports why a load failed only through its log. The lines are kept so that
//! errors can quote the first one; whether they also go to stderr is the caller's choice.

use std::ffi::{c_char, c_void, CStr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};

use llama_cpp_sys_2 as sys;

/// Which of llama.cpp's log lines go to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// No line at all.
    Silent,
    /// Errors and warnings.
    Warn,
    /// Everything but debug lines.
    Info,
}

/// Least ggml level that is printed; above `GGML_LOG_LEVEL_CONT` nothing is.
static PRINT_FROM: AtomicU32 = AtomicU32::new(u32::MAX);
/// The error lines since [`with_errors`] began to listen.
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

/// Chooses which of llama.cpp's log lines are printed; the default is none.
pub fn log_to_stderr(level: LogLevel) {
    let from = match level {
        LogLevel::Silent => u32::MAX,
        LogLevel::Warn => sys::GGML_LOG_LEVEL_WARN,
        LogLevel::Info => sys::GGML_LOG_LEVEL_INFO,
    };
    PRINT_FROM.store(from, Ordering::Relaxed);
    init();
}

/// Installs the log callback and llama.cpp's backends, once per process.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the callback is a plain function and lives as long as the process.
        unsafe {
            sys::llama_log_set(Some(on_log), std::ptr::null_mut());
            sys::llama_backend_init();
        }
    });
}

/// Runs `call` and returns its result with the first error line that llama.cpp logged
/// meanwhile (of any thread: the log does not tell threads apart). The first one tells the
/// cause, later ones only that a step has failed for it.
pub(crate) fn with_errors<T>(call: impl FnOnce() -> T) -> (T, String) {
    LAST_ERROR.lock().unwrap_or_else(|e| e.into_inner()).clear();
    let result = call();
    let text = std::mem::take(&mut *LAST_ERROR.lock().unwrap_or_else(|e| e.into_inner()));
    let reason = text
        .lines()
        .next()
        .unwrap_or("llama.cpp gave no reason")
        .trim()
        .to_owned();
    (result, reason)
}

extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _user: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated line.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if level == sys::GGML_LOG_LEVEL_ERROR {
        LAST_ERROR
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push_str(&line);
    }
    if level >= PRINT_FROM.load(Ordering::Relaxed) {
        // Nobody is told when standard error is closed: a panic here would end the process.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }
}
