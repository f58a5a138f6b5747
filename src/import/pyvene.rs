//! Folders that pyvene's `IntervenableModel.save` writes: `config.json`, which lists the
//! interventions, and an `intkey_<key>.bin` for each that has a constant source.
//!
//! An intervention is an edit of ours if it acts on the input of the output projection and maps
//! each value z by a constant scale and offset:
//!
//! | class | z' |
//! |---|---|
//! | `AdditionIntervention` | z + source |
//! | `SubtractionIntervention` | z − source |
//! | `VanillaIntervention` | source |
//! | `ZeroIntervention` | 0 |
//!
//! Several of them on one layer are applied in the file's order, as pyvene does. Everything else is
//! refused with its reason. Which heads and positions an intervention acts on is told to pyvene when
//! it runs, not when it saves: heads come from the command line, positions are all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use jola_edit::sidecar::BaseShape;
use jola_edit::FileError;
use serde::Deserialize;
use serde_json::Value;

use super::source::Source;
use super::{finite, ImportError, ImportErrorKind, Vectors};

const SOURCE: &str = "source_representation";

/// What of `config.json` is read.
#[derive(Deserialize)]
struct Config {
    mode: String,
    /// Fields of pyvene's `RepresentationConfig`, in its order.
    representations: Vec<Vec<Value>>,
    intervention_types: Vec<String>,
    /// How many values are edited, from the first; null for all.
    intervention_dimensions: Vec<Option<usize>>,
    /// Whether the source is a constant, and not another run's values.
    intervention_constant_sources: Vec<bool>,
    /// Names of the files.
    sorted_keys: Vec<String>,
}

/// What an intervention acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The outputs of all heads of a layer, one after the other.
    Layer,
    /// The outputs of single heads.
    Heads,
}

/// How a value becomes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Subtract,
    Replace,
    Zero,
}

/// An intervention that a sidecar can express.
struct Intervention {
    target: Target,
    layer: u32,
    change: Change,
    dimensions: Option<usize>,
    /// `None` for [`Change::Zero`].
    file: Option<PathBuf>,
}

/// z' = scale·z + add for all values of one layer.
struct Affine {
    scale: Vec<f64>,
    add: Vec<f64>,
}

/// Reads a folder; `heads` are those of each intervention on single heads, in the file's order.
/// Also returns the files that were read.
pub(super) fn read(
    folder: &Path,
    shape: &BaseShape,
    heads: &[BTreeSet<u32>],
) -> Result<(Vectors, Vec<PathBuf>), ImportError> {
    let path = folder.join("config.json");
    let error = |kind| FileError::new(&path, kind);
    let json = std::fs::read(&path)
        .map_err(ImportErrorKind::io("read it"))
        .map_err(error)?;
    let config: Config = serde_json::from_slice(&json)
        .map_err(ImportErrorKind::Config)
        .map_err(error)?;
    let interventions = interventions(folder, &config, shape)
        .map_err(ImportErrorKind::Inexact)
        .map_err(error)?;
    let single = interventions.iter().filter(|i| i.target == Target::Heads);
    let needed = single.count();
    if needed != heads.len() {
        return Err(error(ImportErrorKind::HeadsUnnamed {
            needed,
            named: heads.len(),
        }));
    }
    let mut heads = heads.iter();
    let mut layers: BTreeMap<u32, Affine> = BTreeMap::new();
    let width = shape.head_dim as usize;
    for Intervention {
        target,
        layer,
        change,
        dimensions,
        file,
    } in &interventions
    {
        let count = shape.head_count[*layer as usize];
        let total = count as usize * width;
        // Where the values begin, and how many there are.
        let (starts, size) = match target {
            Target::Layer => (vec![0], total),
            Target::Heads => {
                let heads = heads.next().into_iter().flatten();
                if let Some(head) = heads.clone().find(|head| **head >= count) {
                    return Err(error(ImportErrorKind::NoSuchHead {
                        layer: *layer,
                        head: *head,
                        count,
                    }));
                }
                (heads.map(|head| *head as usize * width).collect(), width)
            }
        };
        let values = match file {
            Some(file) => source(file, size)?,
            None => vec![0.0; size],
        };
        let affine = layers.entry(*layer).or_insert_with(|| Affine {
            scale: vec![1.0; total],
            add: vec![0.0; total],
        });
        let edited = dimensions.unwrap_or(size).min(size);
        for start in starts {
            for (index, value) in values.iter().enumerate().take(edited) {
                affine.apply(start + index, *change, f64::from(*value));
            }
        }
    }
    let mut files = vec![path.clone()];
    files.extend(interventions.into_iter().filter_map(|i| i.file));
    Ok((vectors(&layers, width), files))
}

impl Affine {
    fn apply(&mut self, at: usize, change: Change, value: f64) {
        match change {
            Change::Add => self.add[at] += value,
            Change::Subtract => self.add[at] -= value,
            Change::Replace | Change::Zero => {
                self.scale[at] = 0.0;
                self.add[at] = value;
            }
        }
    }
}

fn vectors(layers: &BTreeMap<u32, Affine>, width: usize) -> Vectors {
    let mut vectors = Vectors {
        method: "pyvene",
        ..Vectors::default()
    };
    for (&layer, affine) in layers {
        let heads = affine.scale.chunks(width).zip(affine.add.chunks(width));
        for (head, (scale, add)) in (0..).zip(heads) {
            let mul = scale.iter().map(|scale| (scale - 1.0) as f32).collect();
            let add = add.iter().map(|add| *add as f32).collect();
            vectors.mul.insert((layer, head), mul);
            vectors.add.insert((layer, head), add);
        }
    }
    let text =
        "pyvene is told when it runs which positions to edit: a sidecar edits every position";
    vectors.warnings.push(text.to_owned());
    vectors
}

/// The constant source of an intervention.
fn source(path: &Path, size: usize) -> Result<Vec<f32>, ImportError> {
    let source = Source::open(path)?;
    let array = finite(&source, SOURCE)?;
    if array.values.len() != size {
        return Err(source.error(ImportErrorKind::Shape {
            tensor: SOURCE.to_owned(),
            expected: format!("[{size}]"),
            found: array.shape,
        }));
    }
    Ok(array.values)
}

/// What the configuration lists; `Err` says what a sidecar cannot do.
fn interventions(
    folder: &Path,
    config: &Config,
    shape: &BaseShape,
) -> Result<Vec<Intervention>, String> {
    if config.mode != "parallel" {
        let mode = &config.mode;
        return Err(format!(
            "mode `{mode}`: there one run's values go into the next; only `parallel` is read"
        ));
    }
    let count = config.representations.len();
    let lengths = [
        config.intervention_types.len(),
        config.intervention_dimensions.len(),
        config.intervention_constant_sources.len(),
        config.sorted_keys.len(),
    ];
    if lengths.iter().any(|length| *length != count) {
        return Err(format!(
            "its lists differ in length: {count} representations, and {lengths:?} types, \
             dimensions, kinds of sources and keys"
        ));
    }
    let mut collisions: HashMap<String, u32> = HashMap::new();
    let mut found = Vec::new();
    for index in 0..count {
        let (mut intervention, name) = intervention(config, index, shape)?;
        let collision = collisions.entry(name.clone()).or_default();
        let key = format!("{name}#{collision}");
        *collision += 1;
        // Older versions have dots where newer ones have lines.
        let keys = &config.sorted_keys;
        let stored = keys.iter().find(|stored| stored.replace('.', "_") == key);
        let stored = stored.ok_or_else(|| format!("`sorted_keys` has no `{key}`"))?;
        if intervention.change != Change::Zero {
            intervention.file = Some(folder.join(format!("intkey_{stored}.bin")));
        }
        found.push(intervention);
    }
    Ok(found)
}

/// One intervention, without its file, and its name in pyvene's keys.
fn intervention(
    config: &Config,
    index: usize,
    shape: &BaseShape,
) -> Result<(Intervention, String), String> {
    let fields = &config.representations[index];
    let number = |at: usize| fields.get(at).and_then(Value::as_u64);
    let text = |at: usize| fields.get(at).and_then(Value::as_str);
    let (Some(layer), Some(component), Some(unit), Some(units)) =
        (number(0), text(1), text(2), number(3))
    else {
        return Err(format!(
            "intervention {index} does not begin with layer, component, unit and number of units"
        ));
    };
    let refuse = |why: &str| Err(format!("intervention {index}, on `{component}`: {why}"));
    let Some((target, layer)) = target(component, layer) else {
        return refuse(
            "a sidecar edits the heads' outputs before the output projection: \
             `attention_value_output`, `head_attention_value_output` or \
             `….layers[N].self_attn.o_proj.input`",
        );
    };
    let fits = match target {
        Target::Layer => unit == "pos",
        Target::Heads => matches!(unit, "h" | "h.pos"),
    };
    if !fits {
        return refuse(&format!("units of `{unit}` are not heads or positions"));
    }
    let more = [
        (7, "subspace_partition"),
        (9, "intervention_link_key"),
        (10, "moe_key"),
    ];
    for (at, name) in more {
        if fields.get(at).is_some_and(|value| !value.is_null()) {
            return refuse(&format!(
                "`{name}` makes it more than a scale and an offset"
            ));
        }
    }
    let Some(layer) = u32::try_from(layer).ok().filter(|l| *l < shape.block_count) else {
        return refuse(&format!(
            "its layer is not one of the model's {}",
            shape.block_count
        ));
    };
    let class = &config.intervention_types[index];
    let Some(change) = change(class) else {
        return refuse(&format!(
            "{class} is not a constant scale and offset; pyvene's AdditionIntervention, \
             SubtractionIntervention, VanillaIntervention and ZeroIntervention are"
        ));
    };
    if !config.intervention_constant_sources[index] && change != Change::Zero {
        return refuse("its source is another run's values, not a constant");
    }
    let name = match component.contains('.') {
        true => format!("comp_{component}_unit_{unit}_nunit_{units}"),
        false => format!("layer_{layer}_comp_{component}_unit_{unit}_nunit_{units}"),
    };
    let intervention = Intervention {
        target,
        layer,
        change,
        dimensions: config.intervention_dimensions[index],
        file: None,
    };
    Ok((intervention, name.replace('.', "_")))
}

/// What a component stands for, and its layer: a module's path has its own.
fn target(component: &str, layer: u64) -> Option<(Target, u64)> {
    match component {
        "attention_value_output" => return Some((Target::Layer, layer)),
        "head_attention_value_output" => return Some((Target::Heads, layer)),
        _ => {}
    }
    let path = component.strip_suffix("].self_attn.o_proj.input")?;
    let (modules, layer) = path.rsplit_once("layers[")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let known = modules.chars().all(plain);
    known.then_some((Target::Layer, layer.parse().ok()?))
}

fn change(class: &str) -> Option<Change> {
    let class = class.strip_prefix("<class 'pyvene.models.interventions.")?;
    Some(match class.strip_suffix("'>")? {
        "AdditionIntervention" => Change::Add,
        "SubtractionIntervention" => Change::Subtract,
        "VanillaIntervention" => Change::Replace,
        "ZeroIntervention" => Change::Zero,
        _ => return None,
    })
}
