//! A progress bar on stderr for long work; nothing where stderr is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `len` things of the kind `unit`.
pub fn bar(len: usize, what: &'static str, unit: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(len as u64)
        .with_message(what)
        .with_prefix(unit);
    let style = "{msg} {wide_bar} {pos}/{len} {prefix}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
    bar
}
