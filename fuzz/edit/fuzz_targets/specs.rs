//! `LLAMA_JOLA` and the strings of the C API: `FILE:STRENGTH`, separated by commas.
#![no_main]

use jola_edit::{join_specs, parse_spec, split_specs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let specs: Result<Vec<_>, _> = split_specs(text).map(parse_spec).collect();
    let Ok(specs) = specs else { return };
    let text = join_specs(&specs).expect("what was split can be joined");
    let again: Result<Vec<_>, _> = split_specs(&text).map(parse_spec).collect();
    assert_eq!(again, Ok(specs));
});
