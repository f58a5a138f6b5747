//! ggml as edits see it: its structs behind pointers, and the one list of the functions that
//! edits call.
//!
//! Whoever brings edits into a graph fills [`GgmlApi`]: the built-in hook with the functions
//! that it links ([`for_each_ggml_function!`](crate::for_each_ggml_function) names them), the
//! plugin with functions looked up in a host process ([`GgmlApi::find`]).

use std::ffi::{c_int, c_void};

/// `struct ggml_context`, only ever behind a pointer.
#[derive(Debug)]
#[repr(C)]
pub struct GgmlContext {
    _opaque: [u8; 0],
}

/// `struct ggml_tensor`, only ever behind a pointer.
#[derive(Debug)]
#[repr(C)]
pub struct GgmlTensor {
    _opaque: [u8; 0],
}

/// `struct ggml_backend_buffer`, only ever behind a pointer.
#[derive(Debug)]
#[repr(C)]
pub struct GgmlBuffer {
    _opaque: [u8; 0],
}

/// `struct ggml_backend_buffer_type`, only ever behind a pointer.
#[derive(Debug)]
#[repr(C)]
pub struct GgmlBufferType {
    _opaque: [u8; 0],
}

/// `struct ggml_init_params` of ggml.h.
#[derive(Debug)]
#[repr(C)]
pub struct GgmlInitParams {
    /// Bytes for the context's objects.
    pub mem_size: usize,
    /// Memory to use, or null for ggml's own.
    pub mem_buffer: *mut c_void,
    /// Leave the tensors' data to a backend buffer.
    pub no_alloc: bool,
}

/// `GGML_TYPE_F32` of ggml.h.
pub const GGML_TYPE_F32: c_int = 0;

/// Defines a struct whose fields are C functions of the fields' names, with a function `find`
/// that looks all of them up by name.
#[macro_export]
macro_rules! function_table {
    (
        $(#[$doc:meta])*
        pub struct $table:ident {
            $($field:ident: unsafe extern $abi:literal fn($($arg:ty),* $(,)?) $(-> $ret:ty)?,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs)] // the fields are C functions, documented in their headers
        pub struct $table {
            $(pub $field: unsafe extern $abi fn($($arg),*) $(-> $ret)?,)*
        }

        impl $table {
            /// Looks every function up by its name; `find` returns an address.
            ///
            /// # Errors
            /// The first error of `find`.
            ///
            /// # Safety
            /// What `find` returns must be the address of a function of that name and of the
            /// field's type.
            pub unsafe fn find<E>(
                find: impl Fn(&::std::ffi::CStr) -> ::std::result::Result<usize, E>,
            ) -> ::std::result::Result<Self, E> {
                Ok(Self {
                    $($field: {
                        const NAME: &::std::ffi::CStr = match ::std::ffi::CStr::from_bytes_with_nul(
                            concat!(stringify!($field), "\0").as_bytes(),
                        ) {
                            Ok(name) => name,
                            Err(_) => unreachable!(),
                        };
                        let address = find(NAME)?;
                        // SAFETY: the caller vouches for the address and the type.
                        unsafe {
                            ::std::mem::transmute::<
                                usize,
                                unsafe extern $abi fn($($arg),*) $(-> $ret)?,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

/// Hands the ggml functions that edits call to the macro `$then`, as
/// `name: unsafe extern "C" fn(…) -> …,` for each, typed as in ggml.h, ggml-alloc.h and
/// ggml-backend.h.
#[macro_export]
macro_rules! for_each_ggml_function {
    ($then:ident) => {
        $then! {
            ggml_tensor_overhead: unsafe extern "C" fn() -> usize,
            ggml_init: unsafe extern "C" fn(
                $crate::graph::GgmlInitParams,
            ) -> *mut $crate::graph::GgmlContext,
            ggml_free: unsafe extern "C" fn(*mut $crate::graph::GgmlContext),
            ggml_new_tensor_1d: unsafe extern "C" fn(
                *mut $crate::graph::GgmlContext,
                ::std::ffi::c_int,
                i64,
            ) -> *mut $crate::graph::GgmlTensor,
            ggml_set_name: unsafe extern "C" fn(
                *mut $crate::graph::GgmlTensor,
                *const ::std::ffi::c_char,
            ) -> *mut $crate::graph::GgmlTensor,
            ggml_nelements: unsafe extern "C" fn(*const $crate::graph::GgmlTensor) -> i64,
            ggml_nrows: unsafe extern "C" fn(*const $crate::graph::GgmlTensor) -> i64,
            ggml_mul: unsafe extern "C" fn(
                *mut $crate::graph::GgmlContext,
                *mut $crate::graph::GgmlTensor,
                *mut $crate::graph::GgmlTensor,
            ) -> *mut $crate::graph::GgmlTensor,
            ggml_add: unsafe extern "C" fn(
                *mut $crate::graph::GgmlContext,
                *mut $crate::graph::GgmlTensor,
                *mut $crate::graph::GgmlTensor,
            ) -> *mut $crate::graph::GgmlTensor,
            ggml_backend_alloc_ctx_tensors_from_buft: unsafe extern "C" fn(
                *mut $crate::graph::GgmlContext,
                *mut $crate::graph::GgmlBufferType,
            ) -> *mut $crate::graph::GgmlBuffer,
            ggml_backend_tensor_set: unsafe extern "C" fn(
                *mut $crate::graph::GgmlTensor,
                *const ::std::ffi::c_void,
                usize,
                usize,
            ),
            ggml_backend_buffer_free: unsafe extern "C" fn(*mut $crate::graph::GgmlBuffer),
        }
    };
}

macro_rules! ggml_api {
    ($($functions:tt)*) => {
        function_table! {
            /// The ggml functions that edits call.
            pub struct GgmlApi { $($functions)* }
        }
    };
}

for_each_ggml_function!(ggml_api);

/// As [`for_each_ggml_function!`](crate::for_each_ggml_function), the functions that only
/// tables of many edits need ([`DeviceTables`](crate::graph::DeviceTables)).
#[macro_export]
macro_rules! for_each_ggml_table_function {
    ($then:ident) => {
        $then! {
            ggml_new_tensor_2d: unsafe extern "C" fn(
                *mut $crate::graph::GgmlContext,
                ::std::ffi::c_int,
                i64,
                i64,
            ) -> *mut $crate::graph::GgmlTensor,
            ggml_get_rows: unsafe extern "C" fn(
                *mut $crate::graph::GgmlContext,
                *mut $crate::graph::GgmlTensor,
                *mut $crate::graph::GgmlTensor,
            ) -> *mut $crate::graph::GgmlTensor,
            ggml_backend_tensor_get: unsafe extern "C" fn(
                *const $crate::graph::GgmlTensor,
                *mut ::std::ffi::c_void,
                usize,
                usize,
            ),
        }
    };
}

macro_rules! ggml_table_api {
    ($($functions:tt)*) => {
        function_table! {
            /// The ggml functions that tables of edits call beside those of [`GgmlApi`].
            pub struct GgmlTableApi { $($functions)* }
        }
    };
}

for_each_ggml_table_function!(ggml_table_api);
