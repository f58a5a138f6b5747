//! Checkpoints of JoLA's released code and of LoFiT's, from which it comes.
//!
//! Both keep, under `…layers.<l>.self_attn.`, a list of one parameter per head: `attn_A.<h>` is
//! the scale and `attn_v.<h>` the offset, `z' = (1 + g2·A) ⊙ z + g1·v`. JoLA adds the gates'
//! `log_g1` (of the offset) and `log_g2` (of the scale), one number per head. A single tensor for
//! all heads is read as well, and LoFiT users' dictionaries of offsets, `layer_<l>.head_<h>`.

use std::collections::BTreeMap;

use jola_edit::sidecar::BaseShape;

use super::error::some_names;
use super::{Array, Files, ImportError, ImportErrorKind, Vectors};

const LAYOUT: &str = "expected `layers.<l>.self_attn.attn_A` and `.attn_v` (with `.log_g1` and \
    `.log_g2` for JoLA), or `layer_<l>.head_<h>`";

/// Limits of the stretched sigmoid (γ, ζ), as in the paper.
const STRETCH: (f64, f64) = (-0.1, 1.1);

/// What the released code keeps for a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Parameter {
    /// `attn_A`
    Scale,
    /// `attn_v`
    Offset,
    /// `log_g2`
    ScaleGate,
    /// `log_g1`
    OffsetGate,
}

impl Parameter {
    const ALL: [Self; 4] = [Self::Scale, Self::Offset, Self::ScaleGate, Self::OffsetGate];

    fn name(self) -> &'static str {
        match self {
            Self::Scale => "attn_A",
            Self::Offset => "attn_v",
            Self::ScaleGate => "log_g2",
            Self::OffsetGate => "log_g1",
        }
    }
}

/// What the name of one of the edit's tensors says.
struct ParameterName {
    parameter: Parameter,
    layer: u64,
    /// `None`: all heads.
    head: Option<u64>,
}

/// The values found so far by layer and parameter, then by head: vectors, or one number for gates.
type ByParameter = BTreeMap<(u32, Parameter), BTreeMap<u32, Vec<f32>>>;

/// Takes a tensor's name apart, if it is one of the edit's; `Err` for a name beside the edit
/// that is not known.
fn parse_name(name: &str) -> Result<Option<ParameterName>, ()> {
    if let Some((layer, head)) = name
        .strip_prefix("layer_")
        .and_then(|n| n.split_once(".head_"))
    {
        return match (layer.parse(), head.parse()) {
            (Ok(layer), Ok(head)) => Ok(Some(ParameterName {
                parameter: Parameter::Offset,
                layer,
                head: Some(head),
            })),
            _ => Err(()),
        };
    }
    // Everything but the attention modules is the base model.
    let Some((before, rest)) = name.split_once(".self_attn.") else {
        return Ok(None);
    };
    let Some(layer) = before
        .rsplit_once("layers.")
        .and_then(|(_, l)| l.parse().ok())
    else {
        return Ok(None);
    };
    let (own, head) = match rest.split_once('.') {
        Some((own, head)) => (own, Some(head)),
        None => (rest, None),
    };
    let Some(parameter) = Parameter::ALL.into_iter().find(|known| known.name() == own) else {
        // Projections, norms and tables of the base are modules; parameters of a
        // variant of these methods would be here.
        let variant = own.starts_with("attn_") || own.starts_with("log_");
        return if variant { Err(()) } else { Ok(None) };
    };
    match head.map(str::parse) {
        None => Ok(Some(ParameterName {
            parameter,
            layer,
            head: None,
        })),
        Some(Ok(head)) => Ok(Some(ParameterName {
            parameter,
            layer,
            head: Some(head),
        })),
        Some(Err(_)) => Err(()),
    }
}

/// Whether a file has gates.
pub(super) fn has_gates(files: &Files<'_>) -> bool {
    let gate = |parameter| matches!(parameter, Parameter::ScaleGate | Parameter::OffsetGate);
    files
        .names()
        .any(|name| matches!(parse_name(name), Ok(Some(parsed)) if gate(parsed.parameter)))
}

/// Reads the edit; `gates`: with JoLA's.
pub(super) fn read(
    files: &Files<'_>,
    shape: &BaseShape,
    gates: bool,
) -> Result<Vectors, ImportError> {
    let mut found = ByParameter::new();
    let mut unknown = Vec::new();
    for name in files.names() {
        match parse_name(name) {
            Ok(Some(parsed)) => read_parameter(files, shape, name, &parsed, &mut found)?,
            Ok(None) => {}
            Err(()) => unknown.push(name),
        }
    }
    if !unknown.is_empty() {
        let names = some_names(unknown.into_iter());
        return Err(files.first().error(ImportErrorKind::Unknown { names }));
    }
    if found.is_empty() {
        return Err(files.no_edit(LAYOUT));
    }
    let mut vectors = Vectors {
        method: if gates { "jola" } else { "lofit" },
        ..Vectors::default()
    };
    let pairs = [
        (Parameter::Scale, Parameter::ScaleGate),
        (Parameter::Offset, Parameter::OffsetGate),
    ];
    for layer in 0..shape.block_count {
        for (parameter, of_gate) in pairs {
            let values = found.remove(&(layer, parameter));
            let log_alphas = found.remove(&(layer, of_gate));
            let partner = |found: Parameter, missing: Parameter| {
                let (found, missing) = (found.name(), missing.name());
                files.first().error(ImportErrorKind::Partner {
                    layer,
                    found,
                    missing,
                })
            };
            let open = match (&values, log_alphas, gates) {
                (None, None, _) => continue,
                (None, Some(_), _) => return Err(partner(of_gate, parameter)),
                (Some(_), Some(gate), true) => Some(gate),
                (Some(_), None, true) => return Err(partner(parameter, of_gate)),
                (Some(_), None, false) => None,
                (Some(_), Some(_), false) => {
                    return Err(files.first().error(ImportErrorKind::Gates { layer }));
                }
            };
            let half = match parameter {
                Parameter::Scale => &mut vectors.mul,
                _ => &mut vectors.add,
            };
            for (head, mut values) in values.unwrap_or_default() {
                if let Some(gates) = &open {
                    let log_alpha = gates.get(&head).and_then(|values| values.first());
                    let Some(log_alpha) = log_alpha else {
                        return Err(partner(parameter, of_gate));
                    };
                    let factor = gate(*log_alpha);
                    values
                        .iter_mut()
                        .for_each(|v| *v = (factor * f64::from(*v)) as f32);
                }
                half.insert((layer, head), values);
            }
        }
    }
    if files.names().any(|name| name == "lm_head.weight") {
        vectors.warnings.push(
            "the checkpoint holds the output head, which JoLA's released code trains where it \
             is not tied: only the edit is imported"
                .to_owned(),
        );
    }
    Ok(vectors)
}

/// The deterministic gate: σ(log α), stretched and clamped. Exactly 0 from -2.398 down,
/// exactly 1 from 2.398 up.
fn gate(log_alpha: f32) -> f64 {
    let (low, high) = STRETCH;
    let open = 1.0 / (1.0 + (-f64::from(log_alpha)).exp());
    (open * (high - low) + low).clamp(0.0, 1.0)
}

/// Adds one tensor to `found`.
fn read_parameter(
    files: &Files<'_>,
    shape: &BaseShape,
    name: &str,
    parsed: &ParameterName,
    found: &mut ByParameter,
) -> Result<(), ImportError> {
    let out_of_range = |what, found, count: usize| {
        let tensor = name.to_owned();
        let count = count as u64;
        files.error(
            name,
            ImportErrorKind::OutOfRange {
                tensor,
                what,
                found,
                count,
            },
        )
    };
    let layer = usize::try_from(parsed.layer).unwrap_or(usize::MAX);
    let heads = shape.head_count.get(layer).copied();
    let heads = heads.ok_or_else(|| out_of_range("layer", parsed.layer, shape.head_count.len()))?;
    let width = match parsed.parameter {
        Parameter::Scale | Parameter::Offset => shape.head_dim,
        Parameter::ScaleGate | Parameter::OffsetGate => 1,
    };
    let Array {
        shape: stored,
        values,
    } = files.read(name)?;
    let count = if parsed.head.is_some() {
        1
    } else {
        u64::from(heads)
    };
    let (count, each) = (count, u64::from(width));
    // Dimensions of 1 say nothing; several heads may lie behind each other in one dimension.
    let dims: Vec<u64> = stored.iter().copied().filter(|dim| *dim != 1).collect();
    let expected: Vec<u64> = [count, each].into_iter().filter(|dim| *dim != 1).collect();
    if dims != expected && dims != [count * each] {
        let expected = match parsed.head {
            Some(_) => format!("[{each}]"),
            None => format!("[{count}, {each}]"),
        };
        let tensor = name.to_owned();
        return Err(files.error(
            name,
            ImportErrorKind::Shape {
                tensor,
                expected,
                found: stored,
            },
        ));
    }
    let first = match parsed.head {
        None => 0,
        Some(head) if head < u64::from(heads) => head as u32,
        Some(head) => return Err(out_of_range("head", head, heads as usize)),
    };
    let by_head = found.entry((layer as u32, parsed.parameter)).or_default();
    for (index, values) in values.chunks_exact(width.max(1) as usize).enumerate() {
        by_head.insert(first + index as u32, values.to_vec());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_close_and_open_exactly() {
        assert_eq!(gate(-2.3979), 0.0);
        assert_eq!(gate(2.3979), 1.0);
        assert!(gate(-2.39) > 0.0 && gate(2.39) < 1.0);
        assert!((gate(0.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn names_tell_parameters_apart() {
        let known = |name: &str| {
            let parsed = parse_name(name).unwrap();
            parsed.map(|p| (p.parameter, p.layer, p.head))
        };
        let prefix = "base_model.model.layers.11.self_attn";
        assert_eq!(
            known(&format!("{prefix}.attn_A.3")),
            Some((Parameter::Scale, 11, Some(3)))
        );
        assert_eq!(
            known(&format!("{prefix}.attn_v")),
            Some((Parameter::Offset, 11, None))
        );
        assert_eq!(
            known(&format!("{prefix}.log_g1")),
            Some((Parameter::OffsetGate, 11, None))
        );
        assert_eq!(
            known("layer_2.head_7"),
            Some((Parameter::Offset, 2, Some(7)))
        );
        assert_eq!(known(&format!("{prefix}.q_proj.weight")), None);
        assert_eq!(known("model.norm.weight"), None);
        assert!(parse_name(&format!("{prefix}.attn_b.0")).is_err());
        assert!(parse_name(&format!("{prefix}.attn_A.x")).is_err());
    }
}
