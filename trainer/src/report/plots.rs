//! Pictures of a run, drawn from its metrics: how the loss fell, and which gates closed when.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use jola_edit::Output;
use svg::node::element::{Group, Path as Shape, Rectangle};
use svg::Node;

use super::chart::{legend, picture, text, Chart, Mark, Scale, INK, MARGIN, SOFT, WIDTH};
use super::run_files::{GATES, LOSS, METRICS};
use crate::train::{Event, Phase, StepRecord, ValidationRecord};

/// Colours of the kinds of gates, those of the sidecar's picture before others; validations
/// have the first.
const COLOURS: [&str; 3] = ["#b2182b", "#2166ac", "#4d9221"];
/// Of single steps.
const PALE: &str = "#a8b0b8";
/// Of closed gates.
const CLOSED: &str = "#eaeef2";
/// Moments at which the gates are shown, and how many of them stand beside each other.
const MOMENTS: usize = 8;
const COLUMNS: usize = 4;
/// Distance of two moments.
const PITCH: f64 = (WIDTH - 2.0 * MARGIN) / COLUMNS as f64;
/// Largest size of a cell, and of all cells of one moment, in pixels.
const CELL: f64 = 8.0;
const GRID: [f64; 2] = [PITCH - 20.0, 150.0];
/// Edge of a gate, where a cell's is 1.
const GATE: f64 = 0.86;

/// What the metrics tell.
#[derive(Debug, Default)]
struct History {
    steps: Vec<StepRecord>,
    validations: Vec<ValidationRecord>,
}

/// Draws the pictures of the run in `folder` beside its metrics. `n_layer` and `n_head` give
/// the grid of gates.
///
/// # Errors
/// Metrics that cannot be read, pictures that cannot be written.
pub fn draw(folder: &Path, n_layer: usize, n_head: usize) -> Result<()> {
    let history = History::read(&folder.join(METRICS))?;
    if history.steps.is_empty() {
        return Ok(());
    }
    write(&folder.join(LOSS), &history.loss_picture())?;
    let kinds = history.kinds();
    if !kinds.is_empty() {
        let grid = [n_layer, n_head];
        write(&folder.join(GATES), &history.gate_picture(&kinds, grid))?;
    }
    Ok(())
}

fn write(path: &Path, svg: &str) -> Result<()> {
    let output = Output::without_inputs(path)?;
    Ok(output.write(|out| out.write_all(svg.as_bytes()))?)
}

impl History {
    fn read(path: &Path) -> Result<History> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut history = History::default();
        for (index, line) in text.lines().enumerate() {
            if let Ok(step) = serde_json::from_str::<StepRecord>(line) {
                history.steps.push(step);
                continue;
            }
            match serde_json::from_str(line) {
                Ok(Event::Restart { .. }) => history = History::default(),
                Ok(_) => {}
                Err(_) => {
                    let validation = serde_json::from_str(line);
                    let place = || format!("{}, line {}", path.display(), index + 1);
                    history.validations.push(validation.with_context(place)?);
                }
            }
        }
        Ok(history)
    }

    /// Kinds of gates, by name.
    fn kinds(&self) -> Vec<&str> {
        let first = self.steps.first();
        let names = first.iter().flat_map(|step| step.open.keys());
        let mut names: Vec<&str> = names.map(String::as_str).collect();
        names.reverse(); // scale before offset, as everywhere
        names
    }

    fn last_step(&self) -> usize {
        self.steps.last().map_or(1, |step| step.step)
    }

    /// Steps at which another phase begins, with its name.
    fn phases(&self) -> Vec<(usize, Phase)> {
        let mut phases: Vec<(usize, Phase)> = Vec::new();
        for step in &self.steps {
            if phases.last().is_none_or(|(_, phase)| *phase != step.phase) {
                phases.push((step.step, step.phase));
            }
        }
        phases
    }

    /// The validations whose edits are kept: the best of each stage.
    fn kept(&self) -> Vec<usize> {
        let phases = self.phases();
        let stage = |step: usize| {
            let begun = phases.iter().filter(|(first, _)| *first <= step);
            begun.filter(|(_, phase)| *phase == Phase::Prune).count()
        };
        let best = self.validations.iter().enumerate().filter(|(_, v)| v.best);
        let mut kept: Vec<(usize, usize)> = Vec::new();
        for (index, validation) in best {
            let stage = stage(validation.step);
            kept.retain(|(other, _)| *other != stage);
            kept.push((stage, index));
        }
        kept.into_iter().map(|(_, index)| index).collect()
    }

    fn loss_picture(&self) -> String {
        let losses = self.steps.iter().map(|step| (step.step, step.loss));
        let losses: Vec<(usize, f64)> = losses.collect();
        let validations = self.validations.iter().map(|v| (v.step, v.validation.loss));
        let validations: Vec<(usize, f64)> = validations.collect();
        let all = losses.iter().chain(&validations).map(|(_, loss)| *loss);
        let chart = Chart::new(self.last_step(), Scale::log(all), 270.0);
        let mut keys = vec![
            (Mark::Dot, PALE, "one training step"),
            (Mark::Curve, INK, "training, smoothed"),
        ];
        let best = self.kept();
        if !validations.is_empty() {
            keys.push((Mark::Point, COLOURS[0], "validation"));
        }
        if !best.is_empty() {
            let name = if best.len() == 1 {
                "best validation"
            } else {
                "best of its stage"
            };
            keys.push((Mark::Ring, COLOURS[0], name));
        }
        let axis = "loss (logarithmic)";
        let mut picture = picture(chart.outer_height())
            .add(chart.frame("Loss per response token", axis, &self.phases()))
            .add(legend(&keys))
            .add(chart.dots(&losses, PALE))
            .add(chart.curve(&smooth(&losses), INK));
        for (index, place) in validations.into_iter().enumerate() {
            picture.append(chart.point(place, COLOURS[0], best.contains(&index)));
        }
        format!("{picture}\n")
    }

    /// Above, how many gates of each kind are open; below, for each kind, which, at a few
    /// moments.
    fn gate_picture(&self, kinds: &[&str], [n_layer, n_head]: [usize; 2]) -> String {
        let opens = self.steps.iter().flat_map(|step| step.open.values());
        let most = opens.copied().max().unwrap_or(0);
        let chart = Chart::new(self.last_step(), Scale::from_zero(most as f64), 150.0);
        let moments = self.moments();
        let cell = CELL
            .min(GRID[0] / n_layer as f64)
            .min(GRID[1] / n_head as f64);
        let row_height = cell * n_head as f64 + 36.0;
        let rows = moments.len().div_ceil(COLUMNS);
        let kind_height = 30.0 + rows as f64 * row_height;
        let top = chart.outer_height() + 36.0;
        let mut picture = picture((top + kinds.len() as f64 * kind_height).ceil())
            .add(chart.frame("Open gates", "gates", &self.phases()));
        let note = "Which they are, after some of the steps: layers run to the right, heads \
                    downwards, from 0.";
        picture.append(text(note, MARGIN, top - 14.0).set("fill", SOFT));
        let mut keys = Vec::new();
        for (index, (kind, colour)) in kinds.iter().zip(COLOURS.iter().cycle()).enumerate() {
            keys.push((Mark::Curve, *colour, *kind));
            let count = |step: &StepRecord| step.open.get(*kind).copied().unwrap_or(0);
            let counts = self
                .steps
                .iter()
                .map(|step| (step.step, count(step) as f64));
            let counts: Vec<(usize, f64)> = counts.collect();
            picture.append(chart.curve(&counts, colour));
            let top = top + index as f64 * kind_height;
            let name = text(*kind, MARGIN, top + 14.0).set("font-size", 14);
            picture.append(name.set("font-weight", "bold").set("fill", *colour));
            for (index, &moment) in moments.iter().enumerate() {
                let left = MARGIN + (index % COLUMNS) as f64 * PITCH;
                let top = top + 38.0 + (index / COLUMNS) as f64 * row_height;
                let open = self.open_at(kind, moment, [n_layer, n_head]);
                let count = open.iter().filter(|open| **open).count();
                picture.append(text(format!("step {moment}: {count} open"), left, top));
                let place = format!("translate({left} {:.1}) scale({cell:.3})", top + 7.0);
                let gates = open_gates(&open, [n_layer, n_head], colour);
                picture.append(gates.set("transform", place));
            }
        }
        format!("{}\n", picture.add(legend(&keys)))
    }

    /// Steps at which the gates are shown: from the first that turned one to the last, and
    /// the end.
    fn moments(&self) -> Vec<usize> {
        let turning = |step: &&StepRecord| !step.opened.is_empty() || !step.closed.is_empty();
        let mut turned = self.steps.iter().filter(turning).map(|step| step.step);
        let last = self.last_step();
        let first = turned.next().map_or(last, |step| step - 1);
        let end = turned.next_back().unwrap_or(last);
        let parts = MOMENTS - 1;
        let even = (0..=parts).map(|part| first + (end - first.min(end)) * part / parts);
        let mut moments: Vec<usize> = even.collect();
        moments.dedup();
        moments
    }

    /// Which gates of a kind are open after `step`, [L·H], layer by layer. Before the first
    /// step all are: what is closed then counts as closed by that step.
    fn open_at(&self, kind: &str, step: usize, [n_layer, n_head]: [usize; 2]) -> Vec<bool> {
        let mut open = vec![true; n_layer * n_head];
        for record in self.steps.iter().take_while(|record| record.step <= step) {
            for (turned, now) in [(&record.opened, true), (&record.closed, false)] {
                for &(layer, head) in turned.get(kind).into_iter().flatten() {
                    if let Some(gate) = open.get_mut(layer * n_head + head) {
                        *gate = now;
                    }
                }
            }
        }
        open
    }
}

/// One moment's gates in cells of size 1, of which those that are open have a colour.
fn open_gates(open: &[bool], [n_layer, n_head]: [usize; 2], colour: &str) -> Group {
    let ground = Rectangle::new().set("width", n_layer).set("height", n_head);
    let gates = open.iter().enumerate().filter(|(_, open)| **open);
    let places = gates.map(|(index, _)| (index / n_head, index % n_head));
    // Each a stroke as long as it is wide: nothing shorter says a square.
    let strokes: String = places.map(|(x, y)| format!("M{x} {y}h{GATE}")).collect();
    let shape = Shape::new().set("d", strokes).set("stroke", colour);
    let shape = shape
        .set("stroke-width", GATE)
        .set("transform", "translate(.07 .5)");
    Group::new().add(ground.set("fill", CLOSED)).add(shape)
}

/// The mean of the values around each, the nearer the heavier. It reaches as far back as
/// ahead, and less far near the ends, so that it does not lag behind the values.
fn smooth(values: &[(usize, f64)]) -> Vec<(usize, f64)> {
    let widest = (values.len() / 16).clamp(1, 50);
    let last = values.len().saturating_sub(1);
    let mean = |(index, &(step, _)): (usize, &(usize, f64))| {
        let reach = index.min(last - index).clamp(1 + widest / 4, 1 + widest);
        let around = index.saturating_sub(reach)..=(index + reach).min(last);
        let weighted = around.map(|other| {
            let weight = (reach + 1 - index.abs_diff(other)) as f64;
            (weight * values[other].1, weight)
        });
        let (sum, weights) = weighted.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
        (step, sum / weights)
    };
    values.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use roxmltree::Document;

    use super::*;
    use crate::train::{Gate, Validation};

    fn record(step: usize, phase: Phase, closed: &[Gate]) -> StepRecord {
        let kind = |gates: &[Gate]| BTreeMap::from([("scale".to_owned(), gates.to_vec())]);
        StepRecord {
            step,
            phase,
            loss: 3.0 / step as f64,
            kl: None,
            lr: 0.1,
            gate_lr: 0.0,
            lambda: 0.0,
            open: BTreeMap::from([("scale".to_owned(), 6 - closed.len())]),
            opened: BTreeMap::new(),
            closed: if closed.is_empty() {
                BTreeMap::new()
            } else {
                kind(closed)
            },
            tokens: 10,
            tokens_per_second: 1.0,
        }
    }

    fn history() -> History {
        History {
            steps: vec![
                record(1, Phase::Learn, &[]),
                record(2, Phase::Prune, &[(0, 1)]),
                record(3, Phase::Prune, &[(1, 2)]),
                record(4, Phase::Polish, &[]),
            ],
            validations: vec![ValidationRecord {
                step: 4,
                validation: Validation {
                    loss: 1.0,
                    exact: 0.0,
                },
                best: true,
            }],
        }
    }

    #[test]
    fn gates_are_followed_through_the_records() {
        let history = history();
        let closed = |step| -> Vec<usize> {
            let open = history.open_at("scale", step, [2, 3]);
            (0..6).filter(|index| !open[*index]).collect()
        };
        assert_eq!(closed(1), Vec::<usize>::new());
        assert_eq!(closed(2), [1]);
        assert_eq!(closed(4), [1, 5]);
        assert_eq!(history.moments(), [1, 2, 3]);
    }

    #[test]
    fn the_best_of_each_stage_is_marked() {
        let mut history = history();
        history.steps.push(record(5, Phase::Prune, &[]));
        history.steps.push(record(6, Phase::Polish, &[]));
        let first = history.validations[0];
        for (step, best) in [(4, true), (6, true), (6, false)] {
            history.validations.push(ValidationRecord {
                step,
                best,
                ..first
            });
        }
        assert_eq!(history.kept(), [1, 2]);
    }

    #[test]
    fn what_was_before_a_restart_is_not_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let step = |step| serde_json::to_string(&record(step, Phase::Learn, &[])).unwrap();
        let validation = serde_json::to_string(&history().validations[0]).unwrap();
        let restart = serde_json::to_string(&Event::Restart { rate: 0.01 }).unwrap();
        let lines = [step(1), step(2), validation, restart, step(1)];
        fs::write(&path, lines.join("\n")).unwrap();
        let history = History::read(&path).unwrap();
        assert_eq!((history.steps.len(), history.validations.len()), (1, 0));
    }

    #[test]
    fn pictures_are_drawn_from_the_metrics_file() {
        let folder = tempfile::tempdir().unwrap();
        let history = history();
        let mut lines = String::new();
        for step in &history.steps {
            lines += &(serde_json::to_string(step).unwrap() + "\n");
        }
        lines += &(serde_json::to_string(&history.validations[0]).unwrap() + "\n");
        fs::write(folder.path().join(METRICS), lines).unwrap();
        draw(folder.path(), 2, 3).unwrap();
        let loss = fs::read_to_string(folder.path().join(LOSS)).unwrap();
        assert!(loss.contains("validation") && loss.contains("prune"));
        let gates = fs::read_to_string(folder.path().join(GATES)).unwrap();
        let document = Document::parse(&gates).unwrap();
        let paths = document
            .descendants()
            .filter(|node| node.has_tag_name("path"));
        let cells = paths
            .flat_map(|path| path.attribute("d"))
            .flat_map(|d| d.matches('M'));
        // Three moments of six gates, with 0, 1 and 2 of them closed.
        assert_eq!(cells.count(), 15);
        assert!(gates.contains("step 3: 4") && gates.contains("step 1: 6"));
    }

    /// A run of this many steps whose gates close one by one in the middle.
    fn run(steps: usize, [n_layer, n_head]: [usize; 2]) -> History {
        let mut open = n_layer * n_head;
        let record = |step: usize| {
            let phase = match step * 3 / (steps + 1) {
                0 => Phase::Learn,
                1 => Phase::Prune,
                _ => Phase::Polish,
            };
            let mut record = record(step, phase, &[]);
            if phase == Phase::Prune && open > 1 {
                open -= 1;
                let gate = (open / n_head, open % n_head);
                record.closed = BTreeMap::from([("scale".to_owned(), vec![gate])]);
            }
            record.open = BTreeMap::from([("scale".to_owned(), open)]);
            record
        };
        History {
            steps: (1..=steps).map(record).collect(),
            validations: history().validations,
        }
    }

    /// Asserts that a picture is well-formed and that its texts and numbers are sound.
    fn check(svg: &str) {
        let document = Document::parse(svg).unwrap();
        let number = |node: &roxmltree::Node, name: &str| -> f64 {
            let value = node.ancestors().find_map(|node| node.attribute(name));
            value.unwrap().parse().unwrap()
        };
        let height = number(&document.root_element(), "height");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        for node in document
            .descendants()
            .filter(|node| node.has_tag_name("text"))
        {
            let size = number(&node, "font-size");
            let width = 0.65 * size * node.text().unwrap().trim().len() as f64;
            let (x, y) = (number(&node, "x"), number(&node, "y"));
            let start = match node.attribute("text-anchor") {
                Some("end") => x - width,
                Some("middle") => x - width / 2.0,
                _ => x,
            };
            let inside = if node.has_attribute("transform") {
                y - width / 2.0 >= 0.0 && y + width / 2.0 <= height && x >= size
            } else {
                start >= 0.0 && start + width <= WIDTH && y >= size && y + size / 4.0 <= height
            };
            assert!(inside, "{:?}", node.text());
        }
    }

    #[test]
    fn pictures_of_any_run_and_model_are_whole() {
        for steps in [1, 2, 3, 153, 5000] {
            for grid in [[1, 1], [28, 12], [30, 9], [80, 64]] {
                let run = run(steps, grid);
                check(&run.loss_picture());
                check(&run.gate_picture(&["scale"], grid));
            }
        }
        let mut late = run(1, [1, 1]);
        late.steps[0].step = 1_000_000;
        check(&late.loss_picture());
        let mut run = run(4, [1, 1]);
        run.validations.clear();
        run.steps.iter_mut().for_each(|step| step.loss = 0.0);
        check(&run.loss_picture());
        check(&History::default().loss_picture());
    }

    #[test]
    fn the_drawn_mean_does_not_lag() {
        let step: Vec<(usize, f64)> = (0..200)
            .map(|index| (index, if index < 100 { 1.0 } else { 0.1 }))
            .collect();
        let smoothed = smooth(&step);
        assert!(smoothed[99].1 > 0.55 && smoothed[100].1 < 0.55);
        let mirrored = |index: usize| smoothed[99 - index].1 + smoothed[100 + index].1;
        assert!((0..100).all(|index| (mirrored(index) - 1.1).abs() < 1e-12));
        assert!((smoothed[0].1 - 1.0).abs() < 1e-12 && (smoothed[199].1 - 0.1).abs() < 1e-12);
        // A slope stays where it is.
        let slope: Vec<(usize, f64)> = (0..200).map(|index| (index, index as f64)).collect();
        let off = |index: &usize| (smooth(&slope)[*index].1 - *index as f64).abs() > 1e-9;
        assert_eq!((5..195).filter(off).count(), 0);
        assert_eq!(smooth(&[(1, 2.0)]), [(1, 2.0)]);
        assert_eq!(smooth(&[]), []);
    }
}
