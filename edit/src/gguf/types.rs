//! Sizes of ggml's tensor types, as in llama.cpp's `ggml.c` (llama-cpp-sys-2 0.1.161).

/// How one ggml tensor type lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// `enum ggml_type`'s number, as stored in files.
    pub id: u32,
    /// ggml's name, for messages.
    pub name: &'static str,
    /// Values per block; rows are whole numbers of blocks.
    pub block: u64,
    /// Bytes that one block takes.
    pub bytes: u64,
}

impl GgmlType {
    /// The type of an id, `None` for ids that ggml does not define or has retired.
    pub fn from_id(id: u32) -> Option<&'static Self> {
        TYPES.iter().find(|ty| ty.id == id)
    }
}

/// Id of 32-bit floats.
pub const F32: u32 = 0;
/// Id of IEEE 16-bit floats.
pub const F16: u32 = 1;
/// Id of 32-bit signed integers.
pub const I32: u32 = 26;
/// Id of bfloat16.
pub const BF16: u32 = 30;

const fn ty(id: u32, name: &'static str, block: u64, bytes: u64) -> GgmlType {
    GgmlType {
        id,
        name,
        block,
        bytes,
    }
}

// Ids 4, 5, 31 to 33 and 36 to 38 are retired and stay out.
const TYPES: &[GgmlType] = &[
    ty(F32, "f32", 1, 4),
    ty(F16, "f16", 1, 2),
    ty(2, "q4_0", 32, 18),
    ty(3, "q4_1", 32, 20),
    ty(6, "q5_0", 32, 22),
    ty(7, "q5_1", 32, 24),
    ty(8, "q8_0", 32, 34),
    ty(9, "q8_1", 32, 36),
    ty(10, "q2_K", 256, 84),
    ty(11, "q3_K", 256, 110),
    ty(12, "q4_K", 256, 144),
    ty(13, "q5_K", 256, 176),
    ty(14, "q6_K", 256, 210),
    ty(15, "q8_K", 256, 292),
    ty(16, "iq2_xxs", 256, 66),
    ty(17, "iq2_xs", 256, 74),
    ty(18, "iq3_xxs", 256, 98),
    ty(19, "iq1_s", 256, 50),
    ty(20, "iq4_nl", 32, 18),
    ty(21, "iq3_s", 256, 110),
    ty(22, "iq2_s", 256, 82),
    ty(23, "iq4_xs", 256, 136),
    ty(24, "i8", 1, 1),
    ty(25, "i16", 1, 2),
    ty(I32, "i32", 1, 4),
    ty(27, "i64", 1, 8),
    ty(28, "f64", 1, 8),
    ty(29, "iq1_m", 256, 56),
    ty(BF16, "bf16", 1, 2),
    ty(34, "tq1_0", 256, 54),
    ty(35, "tq2_0", 256, 66),
    ty(39, "mxfp4", 32, 17),
    ty(40, "nvfp4", 64, 36),
    ty(41, "q1_0", 128, 18),
    ty(42, "q2_0", 64, 18),
];
