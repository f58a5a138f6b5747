/*!
A progress bar on stderr for long work; nothing where stderr is not a terminal.
*/

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `len` rows.
pub fn rows(len: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(len as u64).with_message(what);
    let style = "{msg} {wide_bar} {pos}/{len} rows, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
    bar
}
