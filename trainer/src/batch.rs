//! Packing: the sequences of a batch laid end to end, without padding.

use tch::{Device, Tensor};

/// A tokenised row: the prompt's tokens, then the response's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Prompt and response.
    pub tokens: Vec<i64>,
    /// How many of them are the prompt; the loss is on the others.
    pub n_prompt: usize,
}

impl Sequence {
    /// Tokens that the loss is on; the first token of a sequence cannot be predicted.
    pub fn n_targets(&self) -> usize {
        self.tokens.len() - self.n_prompt.max(1)
    }
}

/// Sequences ready for one forward pass. T tokens in all, R rows whose logits are wanted.
#[derive(Debug)]
pub struct Batch {
    /// [T] token ids
    pub tokens: Tensor,
    /// [T] position of each token in its own sequence
    pub positions: Tensor,
    /// Length of each sequence; their sum is T.
    pub lengths: Vec<i64>,
    /// [R] rows of the packed tokens whose logits are wanted
    pub rows: Tensor,
    /// [R] the token that follows each of `rows`; [0] without targets
    pub targets: Tensor,
}

impl Batch {
    /// Packs training sequences: `rows` are the positions that predict a response token.
    /// The last token of a sequence predicts nothing and is left out.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a Sequence>, device: Device) -> Batch {
        let mut packer = Packer::default();
        for Sequence { tokens, n_prompt } in sequences {
            let start = packer.tokens.len();
            packer.push(&tokens[..tokens.len() - 1]);
            let first = (*n_prompt).max(1);
            let rows = start + first - 1..start + tokens.len() - 1;
            packer.rows.extend(rows.map(|row| row as i64));
            packer.targets.extend_from_slice(&tokens[first..]);
        }
        packer.finish(device)
    }

    /// One sequence with every row selected and no targets.
    pub fn all_rows(tokens: &[i64], device: Device) -> Batch {
        let mut packer = Packer::default();
        packer.push(tokens);
        packer.rows = (0..tokens.len() as i64).collect();
        packer.finish(device)
    }

    /// T, the tokens that a forward pass works on.
    pub fn n_tokens(&self) -> usize {
        self.lengths.iter().sum::<i64>() as usize
    }

    /// R, the tokens that the loss is on.
    pub fn n_rows(&self) -> usize {
        self.rows.numel()
    }
}

#[derive(Default)]
struct Packer {
    tokens: Vec<i64>,
    positions: Vec<i64>,
    lengths: Vec<i64>,
    rows: Vec<i64>,
    targets: Vec<i64>,
}

impl Packer {
    fn push(&mut self, tokens: &[i64]) {
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(0..tokens.len() as i64);
        self.lengths.push(tokens.len() as i64);
    }

    fn finish(self, device: Device) -> Batch {
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Batch {
            tokens: tensor(&self.tokens),
            positions: tensor(&self.positions),
            rows: tensor(&self.rows),
            targets: tensor(&self.targets),
            lengths: self.lengths,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_without_padding_and_selects_what_predicts_the_response() {
        let a = Sequence {
            tokens: vec![5, 6, 7, 8],
            n_prompt: 2,
        };
        let b = Sequence {
            tokens: vec![9, 10],
            n_prompt: 1,
        };
        let batch = Batch::pack([&a, &b], Device::Cpu);
        let list = |t: &Tensor| Vec::<i64>::try_from(t).unwrap();
        assert_eq!(list(&batch.tokens), [5, 6, 7, 9]);
        assert_eq!(list(&batch.positions), [0, 1, 2, 0]);
        assert_eq!(batch.lengths, [3, 1]);
        assert_eq!(list(&batch.rows), [1, 2, 3]);
        assert_eq!(list(&batch.targets), [7, 8, 10]);
        assert_eq!((batch.n_tokens(), batch.n_rows()), (4, 3));
    }

    #[test]
    fn an_empty_prompt_predicts_from_its_first_token_on() {
        let a = Sequence {
            tokens: vec![5, 6, 7],
            n_prompt: 0,
        };
        let batch = Batch::pack([&a], Device::Cpu);
        assert_eq!(Vec::<i64>::try_from(&batch.targets).unwrap(), [6, 7]);
    }
}
