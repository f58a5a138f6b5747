//! The functions that stand in for the host's.
//!
//! Each is a few instructions that add the caller's address (and, for structs passed by value,
//! their place on the stack) to the arguments and go on to a Rust function, so that the right
//! host function is found among several. None of them stops a C++ exception of the host's.

/// `f(arguments)` becomes `to(arguments, caller)`; up to five arguments, all integers or
/// pointers.
macro_rules! shim {
    ($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? => $to:path, $x86:literal, $arm:literal) => {
        /// Stands in for the host's function of this name.
        ///
        /// # Safety
        /// As for the host's function.
        #[unsafe(naked)]
        #[no_mangle]
        pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            std::arch::naked_asm!(concat!("mov ", $x86, ", [rsp]"), "jmp {to}", to = sym $to);
            #[cfg(target_arch = "aarch64")]
            std::arch::naked_asm!(concat!("mov ", $arm, ", x30"), "b {to}", to = sym $to);
        }
    };
    ($name:ident($a:ident: $ta:ty) $(-> $ret:ty)? => $to:path) => {
        shim!($name($a: $ta) $(-> $ret)? => $to, "rsi", "x1");
    };
    ($name:ident($a:ident: $ta:ty, $b:ident: $tb:ty) $(-> $ret:ty)? => $to:path) => {
        shim!($name($a: $ta, $b: $tb) $(-> $ret)? => $to, "rdx", "x2");
    };
    ($name:ident($a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty) $(-> $ret:ty)? => $to:path) => {
        shim!($name($a: $ta, $b: $tb, $c: $tc) $(-> $ret)? => $to, "rcx", "x3");
    };
    ($name:ident($a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty, $d:ident: $td:ty) $(-> $ret:ty)? => $to:path) => {
        shim!($name($a: $ta, $b: $tb, $c: $tc, $d: $td) $(-> $ret)? => $to, "r8", "x4");
    };
    ($name:ident($a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty, $d:ident: $td:ty, $e:ident: $te:ty) $(-> $ret:ty)? => $to:path) => {
        shim!($name($a: $ta, $b: $tb, $c: $tc, $d: $td, $e: $te) $(-> $ret)? => $to, "r9", "x5");
    };
}

mod adapters;
mod batches;
mod by_name;
mod cells;
mod entry;
mod files;
mod init;
mod load;
mod memory_file;
mod pass;
mod saved;
mod sites;
mod start;

use std::arch::naked_asm;
use std::ffi::{c_char, c_int, c_void};

use jola_edit::graph::{GgmlContext, GgmlTensor};

use crate::host::{ByValue, LlamaContext, LlamaModel};
use adapters::*;
use batches::*;
use cells::*;
use saved::*;

/// `f(pointer, struct by value)` becomes `to(pointer, &struct, caller)`.
macro_rules! by_value_shim {
    ($name:ident($object:ty) -> $ret:ty => $to:path) => {
        /// Stands in for the host's function of this name.
        ///
        /// # Safety
        /// As for the host's function.
        #[unsafe(naked)]
        #[no_mangle]
        pub unsafe extern "C-unwind" fn $name(object: *mut $object, value: ByValue) -> $ret {
            #[cfg(target_arch = "x86_64")]
            naked_asm!(
                "lea rsi, [rsp + 8]", // large structs lie behind the return address
                "mov rdx, [rsp]",
                "jmp {to}",
                to = sym $to,
            );
            #[cfg(target_arch = "aarch64")]
            naked_asm!(
                "mov x2, x30", // large structs come as a pointer, in x1
                "b {to}",
                to = sym $to,
            );
        }
    };
}

by_value_shim!(llama_init_from_model(LlamaModel) -> *mut LlamaContext => init::init_from_model);
by_value_shim!(llama_new_context_with_model(LlamaModel) -> *mut LlamaContext => init::new_context_with_model);
by_value_shim!(llama_model_load_from_file(c_char) -> *mut LlamaModel => load::model_load_from_file);
by_value_shim!(llama_load_model_from_file(c_char) -> *mut LlamaModel => load::load_model_from_file);
by_value_shim!(llama_decode(LlamaContext) -> i32 => entry::decode);
by_value_shim!(llama_encode(LlamaContext) -> i32 => entry::encode);

shim!(ggml_mul_mat(graph: *mut GgmlContext, a: *mut GgmlTensor, b: *mut GgmlTensor) -> *mut GgmlTensor => entry::mul_mat);
// Newer versions call it in place of `llama_decode` and `llama_encode`.
shim!(llama_process(context: *mut LlamaContext, kind: c_int, batch: *mut c_void) -> i32 => entry::process);
shim!(llama_free(context: *mut LlamaContext) => entry::free);

/// Stands in for llama.cpp's function of this name.
///
/// # Safety
/// As for llama.cpp's function.
#[no_mangle]
pub unsafe extern "C" fn llama_set_adapter_cvec(
    context: *mut LlamaContext,
    data: *const f32,
    len: usize,
    n_embd: i32,
    il_start: i32,
    il_end: i32,
) -> i32 {
    // SAFETY: the caller's arguments, passed on.
    unsafe { entry::set_adapter_cvec(context, data, len, n_embd, il_start, il_end) }
}

/// Stands in for the C library's function of this name: who looks up one of these functions by
/// name (Python's ctypes, plugins of all kinds) gets ours. Everything else goes on to the C
/// library as if called directly, which keeps `RTLD_NEXT` right.
///
/// # Safety
/// As for the C library's function.
#[unsafe(naked)]
#[no_mangle]
pub unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {ours}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "cmp rax, 1", // 0: to the C library; 1: there is none
        "jb 2f",
        "jne 3f",
        "xor eax, eax",
        "3:",
        "ret",
        "2:",
        "mov rax, qword ptr [rip + {real}]",
        "jmp rax",
        ours = sym by_name::looked_up,
        real = sym crate::resolve::REAL_DLSYM,
    );
    #[cfg(target_arch = "aarch64")]
    naked_asm!(
        "stp x29, x30, [sp, #-32]!",
        "stp x0, x1, [sp, #16]",
        "bl {ours}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        "cbz x16, 2f", // 0: to the C library; 1: there is none
        "cmp x16, #1",
        "csel x0, xzr, x16, eq",
        "ret",
        "2:",
        "adrp x16, {real}",
        "ldr x16, [x16, :lo12:{real}]",
        "br x16",
        ours = sym by_name::looked_up,
        real = sym crate::resolve::REAL_DLSYM,
    );
}
