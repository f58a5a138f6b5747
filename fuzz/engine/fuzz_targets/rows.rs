//! Rows of training and evaluation data, one line of JSON each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llama_jola::data::{parse_messages, parse_row};

fuzz_target!(|text: &str| {
    if let Ok(row) = parse_row(text, 1) {
        std::hint::black_box(row.into_chat().with_completion("x"));
    }
    let _ = parse_messages(text);
});
