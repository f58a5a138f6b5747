//! What `libjola.so` links and exports.

use std::process::Command;

fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .arg(crate::library())
        .output()
        .unwrap_or_else(|error| panic!("{program} (binutils): {error}"));
    assert!(output.status.success(), "{program} failed");
    String::from_utf8(output.stdout).expect("a text")
}

#[test]
fn it_links_the_c_library_only() {
    let dynamic = tool("readelf", &["--dynamic", "--wide"]);
    let needed: Vec<&str> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split(['[', ']']).nth(1))
        .collect();
    assert!(!needed.is_empty(), "{dynamic}");
    for library in needed {
        let known = [
            "libc.so",
            "libgcc_s.so",
            "ld-linux",
            "libm.so",
            "libdl.so",
            "libpthread.so",
        ];
        assert!(
            known.iter().any(|start| library.starts_with(start)),
            "links {library}"
        );
    }
}

#[test]
fn it_exports_what_it_stands_in_for_and_its_api_and_nothing_else() {
    let symbols = tool("nm", &["--dynamic", "--defined-only"]);
    let exported: Vec<&str> = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    let stands_in = [
        "dlsym",
        "ggml_mul_mat",
        "llama_adapter_lora_free",
        "llama_adapter_lora_init",
        "llama_batch_ext_add",
        "llama_batch_ext_add_embd",
        "llama_batch_ext_add_seq",
        "llama_batch_ext_add_token",
        "llama_batch_ext_clear",
        "llama_batch_ext_free",
        "llama_batch_ext_init",
        "llama_batch_ext_set_embd_state",
        "llama_batch_ext_set_embd_token",
        "llama_batch_ext_set_pos",
        "llama_copy_state_data",
        "llama_decode",
        "llama_encode",
        "llama_free",
        "llama_get_state_size",
        "llama_init_from_model",
        "llama_load_model_from_file",
        "llama_load_session_file",
        "llama_memory_clear",
        "llama_memory_seq_add",
        "llama_memory_seq_cp",
        "llama_memory_seq_div",
        "llama_memory_seq_keep",
        "llama_memory_seq_rm",
        "llama_model_load_from_file",
        "llama_new_context_with_model",
        "llama_process",
        "llama_save_session_file",
        "llama_set_adapter_cvec",
        "llama_set_adapters_lora",
        "llama_set_state_data",
        "llama_state_get_data",
        "llama_state_get_size",
        "llama_state_load_file",
        "llama_state_save_file",
        "llama_state_seq_get_data",
        "llama_state_seq_get_data_ext",
        "llama_state_seq_get_size",
        "llama_state_seq_get_size_ext",
        "llama_state_seq_load_file",
        "llama_state_seq_save_file",
        "llama_state_seq_set_data",
        "llama_state_seq_set_data_ext",
        "llama_state_set_data",
    ];
    for name in stands_in {
        assert!(exported.contains(&name), "{name} is missing");
    }
    let header = std::fs::read_to_string(crate::package().join("jola.h")).expect("jola.h");
    for name in exported {
        let public = name.starts_with("jola_") && header.contains(&format!("{name}("));
        assert!(public || stands_in.contains(&name), "exports {name}");
    }
}
