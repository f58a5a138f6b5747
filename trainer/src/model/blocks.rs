//! ggml's quantised blocks, dequantised by tensor operations on whatever device holds them.
//!
//! In every format a number is a product of a block's scale, which has at most 18 significant
//! bits, and a small integer, plus a minimum. The product is exact in float32 and so rounded
//! at most once: the result is bit for bit that of ggml's own code (`dequantize_row_*` in
//! ggml-quants.c), whatever the order of operations.

use tch::{Kind, Tensor};

/// A format of quantised blocks that can stay on the device.
#[derive(Clone, Copy, Debug)]
pub struct BlockFormat {
    /// ggml's id of it.
    pub ggml_type: u32,
    /// Bytes of a block.
    pub bytes: i64,
    /// Numbers in a block.
    pub numbers: i64,
    dequantise: fn(&Tensor) -> Tensor,
}

const fn format(
    ggml_type: u32,
    [bytes, numbers]: [i64; 2],
    dequantise: fn(&Tensor) -> Tensor,
) -> BlockFormat {
    BlockFormat {
        ggml_type,
        bytes,
        numbers,
        dequantise,
    }
}

/// All of them.
pub const BLOCK_FORMATS: [BlockFormat; 12] = [
    format(2, [18, 32], q4_0),
    format(3, [20, 32], q4_1),
    format(6, [22, 32], q5_0),
    format(7, [24, 32], q5_1),
    format(8, [34, 32], q8_0),
    format(10, [84, 256], q2_k),
    format(11, [110, 256], q3_k),
    format(12, [144, 256], q4_k),
    format(13, [176, 256], q5_k),
    format(14, [210, 256], q6_k),
    format(20, [18, 32], iq4_nl),
    format(23, [136, 256], iq4_xs),
];

impl BlockFormat {
    /// The format that ggml gives this id; `None` for one that cannot stay as it is.
    pub fn of(ggml_type: u32) -> Option<BlockFormat> {
        let mut formats = BLOCK_FORMATS.into_iter();
        formats.find(|format| format.ggml_type == ggml_type)
    }

    /// float32 [n, numbers] of blocks [n, bytes] of uint8.
    pub fn dequantise(self, blocks: &Tensor) -> Tensor {
        (self.dequantise)(blocks).view([blocks.size()[0], self.numbers])
    }
}

/// The values that the 4-bit codes of IQ4_NL and IQ4_XS stand for.
const IQ4_VALUES: [f32; 16] = [
    -127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.,
];

/// Bytes `at..at + len` of each block, [n, len].
fn bytes(blocks: &Tensor, at: i64, len: i64) -> Tensor {
    blocks.narrow(1, at, len)
}

/// The float16 at byte `at` of each block, as float32 [n, 1].
fn half(blocks: &Tensor, at: i64) -> Tensor {
    let raw = bytes(blocks, at, 2).contiguous();
    raw.view_dtype(Kind::Half).to_kind(Kind::Float)
}

fn and(x: &Tensor, mask: i64) -> Tensor {
    x.bitwise_and(mask)
}

fn right(x: &Tensor, bits: i64) -> Tensor {
    x.bitwise_right_shift_tensor_scalar(bits)
}

fn left(x: &Tensor, bits: i64) -> Tensor {
    x.bitwise_left_shift_tensor_scalar(bits)
}

/// `x` [.., a, w] shifted right by each of `bits` in turn: [.., a, bits, w].
fn shifted(x: &Tensor, bits: &[i64]) -> Tensor {
    let shifted: Vec<Tensor> = bits.iter().map(|&bits| right(x, bits)).collect();
    Tensor::stack(&shifted, -2)
}

/// Low halves of the bytes, then the high ones: [.., w] becomes [.., 2, w].
fn nibbles(x: &Tensor) -> Tensor {
    Tensor::stack(&[and(x, 15), right(x, 4)], -2)
}

fn q4_0(b: &Tensor) -> Tensor {
    let q = nibbles(&bytes(b, 2, 16)); // [n, 2, 16]
    (q.to_kind(Kind::Float) - 8) * half(b, 0).unsqueeze(2)
}

fn q4_1(b: &Tensor) -> Tensor {
    let q = nibbles(&bytes(b, 4, 16));
    q * half(b, 0).unsqueeze(2) + half(b, 2).unsqueeze(2)
}

/// The fifth bits of 32 numbers from four bytes at `at`, in place: [n, 2, 16] of 0 or 16.
fn fifth_bits(b: &Tensor, at: i64) -> Tensor {
    let bits: Vec<Tensor> = (0..8).map(|bit| right(&bytes(b, at, 4), bit)).collect();
    let bits = and(&Tensor::stack(&bits, 2), 1); // [n, 4, 8]
    left(&bits, 4).view([-1, 2, 16])
}

fn q5_0(b: &Tensor) -> Tensor {
    let q = nibbles(&bytes(b, 6, 16)).bitwise_or_tensor(&fifth_bits(b, 2));
    (q.to_kind(Kind::Float) - 16) * half(b, 0).unsqueeze(2)
}

fn q5_1(b: &Tensor) -> Tensor {
    let q = nibbles(&bytes(b, 8, 16)).bitwise_or_tensor(&fifth_bits(b, 4));
    q * half(b, 0).unsqueeze(2) + half(b, 2).unsqueeze(2)
}

fn q8_0(b: &Tensor) -> Tensor {
    signed(&bytes(b, 2, 32)) * half(b, 0)
}

/// Bytes as signed numbers, float32.
fn signed(bytes: &Tensor) -> Tensor {
    let signed = bytes.contiguous().view_dtype(Kind::Int8);
    signed.to_kind(Kind::Float)
}

/// Two bits of each number, of 64 bytes at `at`: [n, 2 halves, 4, 32].
fn two_bits(b: &Tensor, at: i64) -> Tensor {
    let q = bytes(b, at, 64).reshape([-1, 2, 32]);
    and(&shifted(&q, &[0, 2, 4, 6]), 3)
}

fn q2_k(b: &Tensor) -> Tensor {
    let scales = bytes(b, 0, 16);
    let of_groups = |factors: Tensor, at: i64| {
        (factors * half(b, at)).view([-1, 2, 4, 2, 1]) // of 16 numbers each
    };
    let q = two_bits(b, 16).view([-1, 2, 4, 2, 16]);
    q * of_groups(and(&scales, 15), 80) - of_groups(right(&scales, 4), 82)
}

fn q3_k(b: &Tensor) -> Tensor {
    let low = bytes(b, 96, 8); // the low four bits of the 16 scales
    let high = bytes(b, 104, 4);
    let low = nibbles(&low).view([-1, 16]);
    let high = and(&shifted(&high, &[0, 2, 4, 6]), 3).view([-1, 16]);
    let scales = low.bitwise_or_tensor(&left(&high, 4));
    let scales = (scales.to_kind(Kind::Float) - 32) * half(b, 108);
    let high = shifted(&bytes(b, 0, 32), &[0, 1, 2, 3, 4, 5, 6, 7]); // [n, 8, 32]
    let high = left(&and(&high, 1), 2).view([-1, 2, 4, 32]);
    let q = two_bits(b, 32).bitwise_or_tensor(&high);
    let q = (q.to_kind(Kind::Float) - 4).view([-1, 2, 4, 2, 16]);
    q * scales.view([-1, 2, 4, 2, 1])
}

/// Scales and minima of the eight groups in 12 bytes at byte 4: [n, 8, 1] float32 both.
fn scales_and_minima(b: &Tensor) -> [Tensor; 2] {
    let [first, second, third] = [4, 8, 12].map(|at| bytes(b, at, 4));
    let joined = |low: &Tensor, high: &Tensor| {
        let high = left(&right(high, 6), 4);
        low.bitwise_or_tensor(&high)
    };
    let of_groups = |start: Tensor, rest: Tensor, at: i64| {
        let numbers = Tensor::cat(&[and(&start, 63), rest], 1); // [n, 8]
        (numbers * half(b, at)).unsqueeze(2)
    };
    let scales = joined(&and(&third, 15), &first);
    let minima = joined(&right(&third, 4), &second);
    [of_groups(first, scales, 0), of_groups(second, minima, 2)]
}

fn q4_k(b: &Tensor) -> Tensor {
    let [scales, minima] = scales_and_minima(b);
    let q = nibbles(&bytes(b, 16, 128).reshape([-1, 4, 32]));
    q.view([-1, 8, 32]) * scales - minima
}

fn q5_k(b: &Tensor) -> Tensor {
    let [scales, minima] = scales_and_minima(b);
    let high = shifted(&bytes(b, 16, 32), &[0, 1, 2, 3, 4, 5, 6, 7]); // [n, 8, 32]
    let high = left(&and(&high, 1), 4);
    let q = nibbles(&bytes(b, 48, 128).reshape([-1, 4, 32])).view([-1, 8, 32]);
    q.bitwise_or_tensor(&high) * scales - minima
}

fn q6_k(b: &Tensor) -> Tensor {
    let low = bytes(b, 0, 128).reshape([-1, 2, 64]);
    let low = nibbles(&low).view([-1, 2, 4, 32]);
    let high = and(
        &shifted(&bytes(b, 128, 64).reshape([-1, 2, 32]), &[0, 2, 4, 6]),
        3,
    );
    let q = low.bitwise_or_tensor(&left(&high, 4));
    let scales = signed(&bytes(b, 192, 16)) * half(b, 208);
    let q = (q.to_kind(Kind::Float) - 32).view([-1, 2, 4, 2, 16]);
    q * scales.view([-1, 2, 4, 2, 1])
}

/// What 4-bit codes stand for.
fn iq4_values(codes: &Tensor) -> Tensor {
    let values = Tensor::from_slice(&IQ4_VALUES).to_device(codes.device());
    let all = values.index_select(0, &codes.to_kind(Kind::Int).flatten(0, -1));
    all.view(codes.size().as_slice())
}

fn iq4_nl(b: &Tensor) -> Tensor {
    iq4_values(&nibbles(&bytes(b, 2, 16))) * half(b, 0).unsqueeze(2)
}

fn iq4_xs(b: &Tensor) -> Tensor {
    let low = bytes(b, 4, 4).unsqueeze(2); // two scales in each byte
    let low = nibbles(&low).view([-1, 8]);
    let high = bytes(b, 2, 2).unsqueeze(2); // four in each byte
    let high = and(&shifted(&high, &[0, 2, 4, 6]), 3).view([-1, 8]);
    let scales = low.bitwise_or_tensor(&left(&high, 4));
    let scales = (scales.to_kind(Kind::Float) - 32) * half(b, 0);
    let codes = nibbles(&bytes(b, 8, 128).reshape([-1, 8, 16])); // [n, 8, 2, 16]
    iq4_values(&codes) * scales.view([-1, 8, 1, 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use llama_jola::ggml;
    use proptest::prelude::*;
    use tch::Device;

    /// Bytes of any content are blocks; only their scales must be numbers.
    fn equal_to_ggml(format: BlockFormat, mut raw: Vec<u8>) {
        let size = format.bytes as usize;
        let scales: &[usize] = match format.ggml_type {
            3 | 7 | 12 | 13 => &[0, 2],
            10 => &[80, 82],
            11 => &[108],
            14 => &[208],
            _ => &[0],
        };
        for block in raw.chunks_mut(size) {
            // An exponent of all ones stands for infinity and for what is no number.
            scales.iter().for_each(|at| block[at + 1] &= 0xbf);
        }
        let n = raw.len() / size;
        let mut expected = vec![0f32; n * format.numbers as usize];
        ggml::dequantize(format.ggml_type, &raw, &mut expected).unwrap();
        let blocks = Tensor::from_data_size(&raw, &[n as i64, format.bytes], Kind::Uint8);
        let found = format.dequantise(&blocks);
        assert_eq!((found.kind(), found.device()), (Kind::Float, Device::Cpu));
        let found = Vec::<f32>::try_from(found.flatten(0, -1)).unwrap();
        let different = found.iter().zip(&expected).position(|(a, b)| a != b);
        if let Some(i) = different {
            let (ggml_type, found, expected) = (format.ggml_type, found[i], expected[i]);
            panic!("type {ggml_type}: number {i} is {found}, ggml's is {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_format_equals_ggml_bit_for_bit(
            index in 0..BLOCK_FORMATS.len(),
            seed in any::<[u8; 32]>(),
        ) {
            let format = BLOCK_FORMATS[index];
            let mut state = seed.iter().fold(1u64, |s, b| s.wrapping_mul(257) + u64::from(*b));
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            };
            equal_to_ggml(format, (0..format.bytes * 40).map(|_| next()).collect());
        }
    }

    #[test]
    fn each_format_equals_ggml_on_every_byte() {
        for format in BLOCK_FORMATS {
            let n = 256 * format.bytes;
            let raw = (0..n).map(|i| (i * 7 + i / format.bytes * 31) as u8);
            equal_to_ggml(format, raw.collect());
        }
    }
}
