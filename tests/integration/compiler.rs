//! What llama.cpp is compiled with is right where a compiler is known to be wrong.

use std::io::Write;
use std::process::{Command, Stdio};

/// Of the 64 bytes of a tile configuration g++ 12.2 took the first 8 as read and dropped what was
/// written to the rest: on a processor with AMX the first product with quantised weights ended the program. The
/// argument, written to the last byte, must reach memory before the configuration is loaded.
#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn a_tile_configuration_is_written_before_it_is_loaded() {
    const SOURCE: &str = "#include <immintrin.h>
        void load(unsigned char rows) {
            alignas(64) unsigned char config[64] = {};
            config[63] = rows;
            _tile_loadconfig(config);
        }";
    let mut compiler = Command::new("c++")
        .args(["-O3", "-march=sapphirerapids", "-S", "-o", "-"])
        .args(["-x", "c++", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("c++, which also compiled llama.cpp");
    let mut input = compiler.stdin.take().expect("a pipe");
    input.write_all(SOURCE.as_bytes()).expect("c++ reads it");
    drop(input);
    let output = compiler.wait_with_output().expect("c++ ends");
    assert!(output.status.success(), "{output:?}");
    let assembly = String::from_utf8(output.stdout).expect("assembly is text");
    let (before, _) = assembly
        .split_once("ldtilecfg")
        .unwrap_or_else(|| panic!("no configuration is loaded:\n{assembly}"));
    assert!(
        before.contains("%dil") || before.contains("%edi"),
        "what was written is not in memory:\n{assembly}"
    );
}
