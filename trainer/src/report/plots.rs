//! Pictures of a run, drawn from its metrics: how the loss fell, and which gates closed when.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{anyhow, Context, Result};
use jola_edit::atomic::write_atomically;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::run_dir::METRICS;
use crate::train::Phase;
use crate::train::{StepRecord, ValidationRecord};

/// The loss of steps and validations.
pub const LOSS: &str = "loss.svg";
/// Open gates over the steps, and when each closed.
pub const GATES: &str = "gates.svg";

const INK: RGBColor = RGBColor(60, 60, 60);
const PALE: RGBColor = RGBColor(205, 205, 205);
const CLOSED: RGBColor = RGBColor(244, 244, 244);
/// Colours of the kinds of gates: those of the sidecar's heat map, then others.
const COLOURS: [RGBColor; 3] = [
    RGBColor(178, 24, 43),
    RGBColor(33, 102, 172),
    RGBColor(77, 146, 33),
];
/// Steps that the drawn average of the loss looks back on, roughly.
const SMOOTHING: f64 = 20.0;
/// Moments at which the gates are shown.
const MOMENTS: usize = 8;
/// Edge of a head's cell, in pixels.
const CELL: i32 = 7;

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
    write(&folder.join(LOSS), &history.loss_picture()?)?;
    let kinds = history.kinds();
    if !kinds.is_empty() {
        let grid = [n_layer, n_head];
        write(&folder.join(GATES), &history.gate_picture(&kinds, grid)?)?;
    }
    Ok(())
}

fn write(path: &Path, svg: &str) -> Result<()> {
    write_atomically(path, |out| out.write_all(svg.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// plotters' errors borrow from what they drew on.
fn drawing<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

impl History {
    fn read(path: &Path) -> Result<History> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut history = History::default();
        for (index, line) in text.lines().enumerate() {
            if let Ok(step) = serde_json::from_str::<StepRecord>(line) {
                history.steps.push(step);
            } else {
                let validation = serde_json::from_str(line);
                let place = || format!("{}, line {}", path.display(), index + 1);
                history.validations.push(validation.with_context(place)?);
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

    fn loss_picture(&self) -> Result<String> {
        let losses = self.steps.iter().map(|step| step.loss);
        let validation = self.validations.iter().map(|v| v.validation.loss);
        let top = losses.chain(validation).fold(0.0, f64::max) * 1.05;
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (860, 380)).into_drawing_area();
            area.fill(&WHITE).map_err(drawing)?;
            let mut chart = ChartBuilder::on(&area)
                .caption(
                    "loss per response token",
                    ("sans-serif", 15).into_font().color(&INK),
                )
                .margin(12)
                .x_label_area_size(34)
                .y_label_area_size(48)
                .build_cartesian_2d(0..self.last_step(), 0.0..top.max(1e-3))
                .map_err(drawing)?;
            let mut mesh = chart.configure_mesh();
            mesh.light_line_style(WHITE).bold_line_style(CLOSED);
            mesh.x_desc("step").draw().map_err(drawing)?;
            for (step, phase) in self.phases() {
                let line = [(step, 0.0), (step, top)];
                let line = PathElement::new(line.to_vec(), PALE.stroke_width(1));
                let label = Text::new(
                    phase.name(),
                    (step, top * 0.99),
                    ("sans-serif", 12).into_font().color(&INK),
                );
                chart.draw_series([line]).map_err(drawing)?;
                chart.draw_series([label]).map_err(drawing)?;
            }
            let raw = self.steps.iter().map(|step| (step.step, step.loss));
            let raw = LineSeries::new(raw, PALE.stroke_width(1));
            chart.draw_series(raw).map_err(drawing)?;
            let smooth = LineSeries::new(self.smooth_loss(), INK.stroke_width(2));
            let key = |colour: RGBColor| {
                move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
            };
            let drawn = chart.draw_series(smooth).map_err(drawing)?;
            drawn.label("training, smoothed").legend(key(INK));
            if !self.validations.is_empty() {
                let points = || self.validations.iter().map(|v| (v.step, v.validation.loss));
                let line = LineSeries::new(points(), COLOURS[0].stroke_width(2));
                let drawn = chart.draw_series(line).map_err(drawing)?;
                drawn.label("validation").legend(key(COLOURS[0]));
                let best = self.validations.iter().rev().find(|v| v.best);
                let dots = points().map(|point| {
                    let chosen = best.is_some_and(|best| best.step == point.0);
                    Circle::new(point, if chosen { 5 } else { 2 }, COLOURS[0].filled())
                });
                chart.draw_series(dots).map_err(drawing)?;
            }
            let mut labels = chart.configure_series_labels();
            let labels = labels.border_style(TRANSPARENT).background_style(WHITE);
            labels.draw().map_err(drawing)?;
            area.present().map_err(drawing)?;
        }
        Ok(svg)
    }

    /// Exponential average of the training loss, without the bias of its start.
    fn smooth_loss(&self) -> Vec<(usize, f64)> {
        let keep = 1.0 - 1.0 / SMOOTHING;
        let (mut sum, mut weight) = (0.0, 0.0);
        let smooth = self.steps.iter().map(|step| {
            sum = sum * keep + step.loss;
            weight = weight * keep + 1.0;
            (step.step, sum / weight)
        });
        smooth.collect()
    }

    /// Above, how many gates of each kind are open; below, for each kind, which, at a few
    /// moments: layers run downwards, heads to the right.
    fn gate_picture(&self, kinds: &[&str], [n_layer, n_head]: [usize; 2]) -> Result<String> {
        let moments = self.moments();
        let panel = [n_head as i32 * CELL + 26, n_layer as i32 * CELL + 44];
        let width = (moments.len() as i32 * panel[0] + 40).max(640);
        let height = 260 + kinds.len() as i32 * panel[1] + 12;
        let mut svg = String::new();
        {
            let size = (width as u32, height as u32);
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            area.fill(&WHITE).map_err(drawing)?;
            let (above, below) = area.split_vertically(250);
            self.draw_counts(&above, kinds)?;
            for (row, kind) in kinds.iter().enumerate() {
                let colour = COLOURS[row % COLOURS.len()];
                let top = row as i32 * panel[1];
                for (column, &moment) in moments.iter().enumerate() {
                    let left = 34 + column as i32 * panel[0];
                    let open = self.open_at(kind, moment, [n_layer, n_head]);
                    let count = open.iter().filter(|open| **open).count();
                    let title = format!("step {moment}: {count}");
                    let style = ("sans-serif", 12).into_font().color(&INK);
                    let title = Text::new(title, (left, top + 22), style);
                    below.draw(&title).map_err(drawing)?;
                    let origin = (left, top + 36);
                    let size = (n_head as i32 * CELL, n_layer as i32 * CELL);
                    let corners = [origin, (origin.0 + size.0, origin.1 + size.1)];
                    let ground = Rectangle::new(corners, CLOSED.filled());
                    below.draw(&ground).map_err(drawing)?;
                    let gates = open.iter().enumerate();
                    for (index, _) in gates.filter(|(_, open)| **open) {
                        let (layer, head) = ((index / n_head) as i32, (index % n_head) as i32);
                        let (x, y) = (origin.0 + head * CELL, origin.1 + layer * CELL);
                        let corners = [(x, y), (x + CELL - 1, y + CELL - 1)];
                        let cell = Rectangle::new(corners, colour.filled());
                        below.draw(&cell).map_err(drawing)?;
                    }
                }
                let style = ("sans-serif", 12).into_font().color(&colour);
                let label = format!("{kind}: rows are layers, columns are heads, from 0");
                let label = Text::new(label, (34, top + 6), style);
                below.draw(&label).map_err(drawing)?;
            }
            area.present().map_err(drawing)?;
        }
        Ok(svg)
    }

    fn draw_counts(&self, area: &DrawingArea<SVGBackend, Shift>, kinds: &[&str]) -> Result<()> {
        let opens = self.steps.iter().flat_map(|step| step.open.values());
        let most = opens.copied().max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .caption("open gates", ("sans-serif", 15).into_font().color(&INK))
            .margin(12)
            .x_label_area_size(34)
            .y_label_area_size(48)
            .build_cartesian_2d(0..self.last_step(), 0..most + most / 20 + 1)
            .map_err(drawing)?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(WHITE).bold_line_style(CLOSED);
        mesh.x_desc("step").draw().map_err(drawing)?;
        for (kind, colour) in kinds.iter().zip(COLOURS.iter().cycle()) {
            let count = |step: &StepRecord| step.open.get(*kind).copied().unwrap_or(0);
            let line = self.steps.iter().map(|step| (step.step, count(step)));
            let line = LineSeries::new(line, colour.stroke_width(2));
            let drawn = chart.draw_series(line).map_err(drawing)?;
            drawn.label(*kind).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
            });
        }
        let mut labels = chart.configure_series_labels();
        let labels = labels.border_style(TRANSPARENT).background_style(WHITE);
        labels.draw().map_err(drawing)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::train::{Gate, Validation};

    fn record(step: usize, phase: Phase, closed: &[Gate]) -> StepRecord {
        let kind = |gates: &[Gate]| BTreeMap::from([("scale".to_owned(), gates.to_vec())]);
        StepRecord {
            step,
            phase,
            loss: 3.0 / step as f64,
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
        let filled = |colour: &str| gates.matches(&format!("fill=\"{colour}\"")).count();
        // Three moments of six gates, with 0, 1 and 2 of them closed.
        let cells = filled("#B2182B");
        assert!(cells >= 15, "{cells}");
        assert!(gates.contains("step 3: 4") && gates.contains("step 1: 6"));
    }
}
