//! `--method` and the options of single methods.

use anyhow::{bail, ensure, Result};
use clap::{Args, ValueEnum};

use super::values::{count, positive};
use crate::method::{LoraConfig, Method};
use crate::model::Config;
use crate::train::Defaults;

/// λ of LoFiT's L1 penalty in its published script for Llama 2 7B.
const LOFIT_L1: f64 = 1e-3;
/// LoFiT's published code takes a tenth of all heads unless it is told how many.
const LOFIT_SHARE: f64 = 0.1;
const LORA_RANK: usize = 8;
/// The attention matrices: what edits act on too.
const LORA_TARGETS: [&str; 4] = ["attn_q", "attn_k", "attn_v", "attn_output"];

/// The options that say what is trained.
#[derive(Debug, Args)]
pub struct MethodArgs {
    /// What to train.
    #[arg(long, value_enum, default_value_t = MethodName::Jola)]
    method: MethodName,
    /// How methods with gates are trained.
    #[arg(long, value_enum, default_value_t = RecipeName::Default)]
    pub recipe: RecipeName,
    /// lofit: how many heads get an offset [default: a tenth of all].
    #[arg(long, value_name = "K", value_parser = count, help_heading = METHODS)]
    heads: Option<usize>,
    /// layerwise: the layers whose heads get an offset, counted from 0, as 5-12,20
    /// [default: all].
    #[arg(long, value_name = "LIST", value_parser = layers, help_heading = METHODS)]
    layers: Option<Layers>,
    /// lora: the rank r of the change of a matrix [default: 8].
    #[arg(long, value_name = "R", value_parser = count, help_heading = METHODS)]
    lora_rank: Option<usize>,
    /// lora: α; the change is α/r·B·A [default: twice the rank].
    #[arg(long, value_name = "A", value_parser = positive, help_heading = METHODS)]
    lora_alpha: Option<f64>,
    /// lora: matrices to change, by their names in the GGUF file: attn_q, attn_k, attn_v,
    /// attn_output, ffn_gate, ffn_up, ffn_down
    /// [default: attn_q,attn_k,attn_v,attn_output].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = METHODS)]
    lora_targets: Vec<String>,
}

/// What `--recipe` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecipeName {
    /// Learn, prune to --sparsity, polish.
    Default,
    /// The published schedule and penalty: 20 epochs at a rate of 5e-3, λ = 0.1·e^(−0.01·step),
    /// validation after each epoch with a patience of 2. It closes few gates or none.
    Paper,
}

impl RecipeName {
    /// What goes without saying with this recipe.
    pub fn defaults(self) -> Defaults {
        match self {
            RecipeName::Default => Defaults::DEFAULT,
            RecipeName::Paper => Defaults::PAPER,
        }
    }
}

const METHODS: &str = "Options of single methods";

/// What `--method` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MethodName {
    /// Scale and offset of a head's output, each behind its own gate.
    Jola,
    /// Scale and offset with one gate per head for both.
    SharedGate,
    /// Gated offsets only.
    Additive,
    /// Gated scales only.
    Multiplicative,
    /// Scale and offset of every head, no gates.
    Ungated,
    /// Offsets of the K heads whose scales, learned first and then forgotten, are largest.
    Lofit,
    /// An offset for every head of chosen layers.
    Layerwise,
    /// Low-rank changes of weights, written as an adapter for llama.cpp's --lora.
    Lora,
}

/// Ranges of layers, both ends included.
#[derive(Clone, Debug)]
struct Layers(Vec<(usize, usize)>);

fn layers(text: &str) -> Result<Layers, String> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let ends = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (ends.0 <= ends.1).then_some(ends)
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    ranges
        .map(Layers)
        .ok_or_else(|| "expected layers and ranges of layers, such as 5-12,20".to_owned())
}

impl MethodArgs {
    /// The method, with what this base model makes of its options. `lambda` is --lambda.
    ///
    /// # Errors
    /// Options of another method, or that the model has no place for.
    pub fn method(&self, lambda: Option<f64>, config: &Config) -> Result<Method> {
        self.refuse_options_of_others()?;
        Ok(match self.method {
            MethodName::Jola => Method::Jola,
            MethodName::SharedGate => Method::SharedGate,
            MethodName::Additive => Method::Additive,
            MethodName::Multiplicative => Method::Multiplicative,
            MethodName::Ungated => Method::Ungated,
            MethodName::Lofit => {
                let all = config.n_layer * config.n_head;
                let share = (all as f64 * LOFIT_SHARE) as usize;
                let heads = self.heads.unwrap_or(share.max(1));
                ensure!(heads <= all, "--heads {heads}: the model has {all} heads");
                let l1 = lambda.unwrap_or(LOFIT_L1);
                Method::Lofit { heads, l1 }
            }
            MethodName::Layerwise => {
                let n_layer = config.n_layer;
                let all = Layers(vec![(0, n_layer - 1)]);
                let ranges = &self.layers.as_ref().unwrap_or(&all).0;
                if let Some((_, last)) = ranges.iter().find(|(_, last)| *last >= n_layer) {
                    bail!(
                        "--layers: there is no layer {last}, the model's last is {}",
                        n_layer - 1
                    );
                }
                let within = |l: &usize| ranges.iter().any(|(from, to)| (from..=to).contains(&l));
                Method::Layerwise {
                    layers: (0..n_layer).filter(within).collect(),
                }
            }
            MethodName::Lora => {
                let rank = self.lora_rank.unwrap_or(LORA_RANK);
                let targets = match self.lora_targets.is_empty() {
                    true => LORA_TARGETS.map(str::to_owned).to_vec(),
                    false => self.lora_targets.clone(),
                };
                Method::Lora(LoraConfig {
                    rank,
                    alpha: self.lora_alpha.unwrap_or(2.0 * rank as f64),
                    targets,
                })
            }
        })
    }

    fn refuse_options_of_others(&self) -> Result<()> {
        let options = [
            ("--heads", self.heads.is_some(), MethodName::Lofit),
            ("--layers", self.layers.is_some(), MethodName::Layerwise),
            ("--lora-rank", self.lora_rank.is_some(), MethodName::Lora),
            ("--lora-alpha", self.lora_alpha.is_some(), MethodName::Lora),
            (
                "--lora-targets",
                !self.lora_targets.is_empty(),
                MethodName::Lora,
            ),
        ];
        for (option, given, owner) in options {
            if given && self.method != owner {
                let name = owner.to_possible_value().expect("no method is hidden");
                bail!("{option} goes with --method {} only", name.get_name());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::layers;

    #[test]
    fn layers_are_numbers_and_ranges() {
        let parse = |text| layers(text).map(|layers| layers.0);
        assert_eq!(parse("5-12, 20"), Ok(vec![(5, 12), (20, 20)]));
        for bad in ["", "3-", "5-2", "a", "1,,2", "-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
