//! Rotary position embedding: a complex factor for each pair of a head at each position.

use tch::{Kind, Tensor};

use super::rope::Rope;
use crate::architectures::RopePairs;

/// The angle of each pair at position 1, [rotated/2] float64.
#[derive(Debug)]
pub struct Frequencies {
    /// In most layers, up to the original context.
    pub short: Tensor,
    /// In most layers, beyond the original context, where the model tells them apart.
    pub long: Option<Tensor>,
    /// In layers with a window.
    pub local: Tensor,
    /// The context, in tokens, that one sequence is served with at least.
    pub served_context: usize,
    /// The longest context for which `short` holds.
    pub short_context: usize,
}

impl Frequencies {
    /// Those for sequences of up to `longest` tokens. llama.cpp goes by the size of its
    /// context, not by the length of a sequence.
    pub fn of_context(&self, longest: usize) -> &Tensor {
        match &self.long {
            Some(long) if longest.max(self.served_context) > self.short_context => long,
            _ => &self.short,
        }
    }
}

/// How the heads of each packed token are turned.
pub(super) struct Rotation {
    /// e^(i·position·frequency), complex [T, 1, rotated/2], times the magnitude
    turns: Tensor,
    /// Numbers of a head that are rotated, from its start.
    dim: i64,
}

impl Rotation {
    /// By `rope` at these positions [T], with its frequencies [rotated/2], in format `math`.
    pub fn new(positions: &Tensor, rope: &Rope, frequencies: &Tensor, math: Kind) -> Rotation {
        let angles = positions.to_kind(Kind::Double).unsqueeze(1)
            * frequencies.to_device(positions.device()).unsqueeze(0);
        let complex = match math {
            Kind::Double => Kind::ComplexDouble,
            _ => Kind::ComplexFloat,
        };
        let length = angles.full_like(rope.magnitude());
        let turns = Tensor::polar(&length, &angles);
        Rotation {
            turns: turns.unsqueeze(1).to_kind(complex),
            dim: rope.dim as i64,
        }
    }

    /// Heads [T, n, D] after the rotation of their pairs.
    pub fn apply(&self, heads: &Tensor, pairs: RopePairs) -> Tensor {
        let (dim, head_dim) = (self.dim, heads.size()[2]);
        let (n_token, n) = (heads.size()[0], heads.size()[1]);
        let x = heads.narrow(2, 0, dim);
        let numbers = match pairs {
            RopePairs::Adjacent => x.reshape([n_token, n, dim / 2, 2]),
            RopePairs::Halves => x
                .reshape([n_token, n, 2, dim / 2])
                .transpose(2, 3)
                .contiguous(),
        };
        let turned = (numbers.view_as_complex() * &self.turns).view_as_real(); // [T, n, dim/2, 2]
        let turned = match pairs {
            RopePairs::Adjacent => turned,
            RopePairs::Halves => turned.transpose(2, 3),
        };
        let turned = turned.reshape([n_token, n, dim]);
        if dim == head_dim {
            return turned;
        }
        let rest = heads.narrow(2, dim, head_dim - dim);
        Tensor::cat(&[turned, rest], 2)
    }
}
