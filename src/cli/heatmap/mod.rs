//! The picture of a sidecar: which heads it edits, and how strongly.
//!
//! It has a panel for the scales and one for the offsets, each a grid of heads by layers whose
//! cells are the darker the larger the vector's norm. Layers run to the right, as the model
//! computes them, so that the picture of a deep model is wide rather than tall.

use jola_edit::sidecar::{HeadNorms, SidecarStats};
use jola_edit::Sidecar;
use svg::node::element::{Definitions, Group, LinearGradient, Rectangle, Stop, Text, Title};
use svg::{Document, Node};

/// Edges of a cell: the largest, and the smallest that still shows a colour.
const CELLS: [usize; 2] = [22, 6];
/// Size that the grid of a large model keeps to, as long as its cells are not too small.
const GRID: [usize; 2] = [760, 560];
/// Room for the texts above the panels, whatever the grid.
const MIN_WIDTH: usize = 700;
const MARGIN: usize = 20;
/// Room for the name and the numbers of the heads.
const LEFT: usize = MARGIN + 44;
/// Room for the titles of the picture.
const TOP: usize = 78;
/// Room for the title of a panel, and for the numbers and the name of the layers.
const ABOVE: usize = 20;
const BELOW: usize = 62;
/// The bar that shows the colours.
const BAR: [usize; 2] = [100, 10];

const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif";
const INK: &str = "#24292f";
const SOFT: &str = "#57606a";
const CLOSED: &str = "#eaeef2";

/// One panel.
struct Panel {
    id: &'static str,
    title: &'static str,
    meaning: &'static str,
    unit: &'static str,
    /// Colours from no norm to the largest; the first is told from a head without an edit.
    colours: [[u8; 3]; 3],
    norm: fn(&HeadNorms) -> Option<f64>,
}

const PANELS: [Panel; 2] = [
    Panel {
        id: "scale",
        title: "Scale",
        meaning: "head output z becomes (1 + m) · z",
        unit: "L2 norm of m (no unit)",
        colours: [[252, 201, 180], [222, 45, 38], [103, 0, 13]],
        norm: |head| head.mul,
    },
    Panel {
        id: "offset",
        title: "Offset",
        meaning: "head output z becomes z + a",
        unit: "L2 norm of a (unit of z)",
        colours: [[190, 215, 236], [49, 130, 189], [8, 48, 107]],
        norm: |head| head.add,
    },
];

impl Panel {
    /// The colour of a norm that is this share of the largest.
    fn colour(&self, share: f64) -> String {
        let [low, middle, high] = self.colours;
        let (from, to, part) = if share < 0.5 {
            (low, middle, share * 2.0)
        } else {
            (middle, high, share * 2.0 - 1.0)
        };
        let mix = |i: usize| {
            let (from, to) = (f64::from(from[i]), f64::from(to[i]));
            (from + (to - from) * part).round() as u8
        };
        format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
    }
}

/// Heads by layers, and the size of a cell.
struct Grid {
    /// Heads of each layer.
    heads: Vec<usize>,
    most_heads: usize,
    cell: usize,
}

impl Grid {
    fn new(sidecar: &Sidecar) -> Grid {
        let layers = 0..sidecar.block_count;
        let count = |layer| sidecar.head_count.at(layer).unwrap_or(0) as usize;
        let heads: Vec<usize> = layers.map(count).collect();
        let most_heads = heads.iter().copied().max().unwrap_or(0);
        let fitting = (GRID[0] / heads.len().max(1)).min(GRID[1] / most_heads.max(1));
        Grid {
            heads,
            most_heads,
            cell: fitting.clamp(CELLS[1], CELLS[0]),
        }
    }

    fn width(&self) -> usize {
        self.heads.len() * self.cell
    }

    fn height(&self) -> usize {
        self.most_heads * self.cell
    }

    /// Space between two cells.
    fn gap(&self) -> usize {
        1 + usize::from(self.cell >= 12)
    }

    /// Edge of a cell without that space.
    fn edge(&self) -> usize {
        self.cell - self.gap()
    }

    /// Every how manieth cell has its number, so that the numbers lie `room` apart.
    fn stride(&self, room: usize) -> usize {
        let strides = [1, 2, 5, 10, 20, 50];
        let wide_enough = |stride: &usize| stride * self.cell >= room;
        strides.into_iter().find(wide_enough).unwrap_or(100)
    }
}

/// Draws the heat map. Both layers and heads count from 0.
pub fn svg(sidecar: &Sidecar, stats: &SidecarStats) -> String {
    let grid = Grid::new(sidecar);
    let width = (LEFT + grid.width() + MARGIN).max(MIN_WIDTH);
    let panel_height = ABOVE + grid.height() + BELOW;
    let height = TOP + PANELS.len() * panel_height;
    let mut picture = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("width", width)
        .set("height", height)
        .set("font-family", FONTS)
        .set("font-size", 12)
        .set("fill", INK)
        // Of its own, as viewers with a dark page have none.
        .add(rectangle([0, 0], [width, height], "#ffffff").set("rx", 6))
        .add(gradients());
    let name = fitted(&sidecar.name, width - 2 * MARGIN, 16);
    let title = text(&name, MARGIN, 32).set("font-size", 16);
    picture.append(title.set("font-weight", "bold"));
    let numbers = format!(
        "{} of {} heads edited: {} scales, {} offsets",
        stats.edited_heads, stats.heads, stats.open_mul, stats.open_add
    );
    picture.append(text(&numbers, MARGIN, 53).set("fill", SOFT));
    let unedited = "not edited";
    let swatch = width - MARGIN - text_width(unedited, 12) - BAR[1] - 6;
    picture.append(rectangle([swatch, 44], [BAR[1]; 2], CLOSED));
    picture.append(text(unedited, swatch + BAR[1] + 6, 53).set("fill", SOFT));
    for (index, panel) in PANELS.iter().enumerate() {
        let top = TOP + index * panel_height + ABOVE;
        picture.append(heading(panel, stats, top - 12, width));
        picture.append(ground(&grid, top));
        picture.append(axes(&grid, top));
        picture.append(cells(panel, stats, &grid, top));
    }
    format!("{picture}\n")
}

/// The bars' colours.
fn gradients() -> Definitions {
    let gradient = |panel: &Panel| {
        let mut gradient = LinearGradient::new().set("id", panel.id);
        for share in [0.0, 0.5, 1.0] {
            let stop = Stop::new().set("offset", share);
            gradient.append(stop.set("stop-color", panel.colour(share)));
        }
        gradient
    };
    let definitions = Definitions::new();
    PANELS
        .iter()
        .map(gradient)
        .fold(definitions, Definitions::add)
}

fn largest(panel: &Panel, stats: &SidecarStats) -> Option<f64> {
    let norms = stats.norms.iter().filter_map(panel.norm);
    norms.reduce(f64::max)
}

/// What the panel shows, and at the right what its colours mean.
fn heading(panel: &Panel, stats: &SidecarStats, baseline: usize, width: usize) -> Group {
    let title = text(panel.title, MARGIN, baseline).set("font-size", 14);
    let title = title
        .set("font-weight", "bold")
        .set("fill", panel.colour(0.6));
    let mut heading = Group::new().add(title);
    heading.append(text(panel.meaning, LEFT + 20, baseline).set("fill", SOFT));
    let right = width - MARGIN;
    let Some(largest) = largest(panel, stats) else {
        heading.append(at_right(
            text("no head has one", right, baseline).set("fill", SOFT),
        ));
        return heading;
    };
    let largest = short(largest);
    heading.append(at_right(text(&largest, right, baseline)));
    let bar = right - text_width(&largest, 12) - 6 - BAR[0];
    heading.append(rectangle(
        [bar, baseline - 9],
        BAR,
        &format!("url(#{})", panel.id),
    ));
    heading.append(at_right(text("0", bar - 6, baseline)));
    heading.append(at_right(
        text(panel.unit, bar - 24, baseline).set("fill", SOFT),
    ));
    heading
}

/// All cells as heads that are not edited; each says which head it is.
fn ground(grid: &Grid, top: usize) -> Group {
    let mut ground = Group::new().set("fill", CLOSED);
    for (layer, &heads) in grid.heads.iter().enumerate() {
        for head in 0..heads {
            let cell = Rectangle::new()
                .set("x", LEFT + layer * grid.cell)
                .set("y", top + head * grid.cell)
                .set("width", grid.edge())
                .set("height", grid.edge());
            let hint = format!("layer {layer}, head {head}: closed");
            ground.append(cell.add(Title::new(hint)));
        }
    }
    ground
}

/// Numbers and names of layers and heads.
fn axes(grid: &Grid, top: usize) -> Group {
    let mut axes = Group::new().set("font-size", 11).set("fill", SOFT);
    let half = grid.edge() / 2;
    for layer in (0..grid.heads.len()).step_by(grid.stride(22)) {
        let x = LEFT + layer * grid.cell + half;
        axes.append(centred(text(
            &layer.to_string(),
            x,
            top + grid.height() + 14,
        )));
    }
    for head in (0..grid.most_heads).step_by(grid.stride(14)) {
        let y = top + head * grid.cell + half + 4;
        axes.append(at_right(text(&head.to_string(), LEFT - 7, y)));
    }
    let (x, y) = (LEFT + grid.width() / 2, top + grid.height() + 32);
    axes.append(centred(text("layer", x.max(LEFT + 14), y)));
    let (x, y) = (MARGIN + 8, top + (grid.height() / 2).max(14));
    let heads = centred(text("head", x, y));
    axes.append(heads.set("transform", format!("rotate(-90 {x} {y})")));
    axes
}

/// The edited heads.
fn cells(panel: &Panel, stats: &SidecarStats, grid: &Grid, top: usize) -> Group {
    let largest = largest(panel, stats).unwrap_or(0.0);
    let mut cells = Group::new();
    for head in &stats.norms {
        let Some(norm) = (panel.norm)(head) else {
            continue;
        };
        let share = if largest > 0.0 { norm / largest } else { 0.0 };
        let x = LEFT + head.layer as usize * grid.cell;
        let y = top + head.head as usize * grid.cell;
        let hint = format!("layer {}, head {}: {norm:.4}", head.layer, head.head);
        let cell = rectangle([x, y], [grid.edge(); 2], &panel.colour(share));
        cells.append(cell.add(Title::new(hint)));
    }
    cells
}

fn rectangle([x, y]: [usize; 2], [width, height]: [usize; 2], fill: &str) -> Rectangle {
    let at = Rectangle::new().set("x", x).set("y", y);
    let sized = at.set("width", width).set("height", height);
    sized.set("fill", fill)
}

fn text(content: &str, x: usize, baseline: usize) -> Text {
    Text::new(content).set("x", x).set("y", baseline)
}

fn centred(text: Text) -> Text {
    text.set("text-anchor", "middle")
}

fn at_right(text: Text) -> Text {
    text.set("text-anchor", "end")
}

/// Three digits or so.
fn short(norm: f64) -> String {
    match norm {
        _ if norm >= 1e5 => format!("{norm:.1e}"),
        _ if norm >= 100.0 => format!("{norm:.0}"),
        _ if norm >= 10.0 => format!("{norm:.1}"),
        _ if norm >= 1.0 => format!("{norm:.2}"),
        _ if norm >= 1e-3 => format!("{norm:.4}"),
        _ if norm > 0.0 => format!("{norm:.1e}"),
        _ => "0".to_owned(),
    }
}

/// Width of a character in a wide sans-serif font, as a share of the font's size.
fn character_width(character: char) -> f64 {
    match character {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ':' | ';' | '(' | ')' | ' ' | '-' => 0.45,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 1.0,
        'A'..='Z' => 0.8,
        ' '..='~' | '·' => 0.66,
        _ => 1.0,
    }
}

/// Width that a text takes at most, whatever sans-serif font the viewer has.
fn text_width(text: &str, size: usize) -> usize {
    (text.chars().map(character_width).sum::<f64>() * size as f64).ceil() as usize
}

/// A text without what XML forbids, and cut with an ellipsis where it is wider than `room`.
fn fitted(text: &str, room: usize, size: usize) -> String {
    let allowed = |c: &char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    let mut text: String = text.chars().filter(allowed).collect();
    if text_width(&text, size) <= room {
        return text;
    }
    while text_width(&text, size) + size > room && text.pop().is_some() {}
    text + "…"
}

#[cfg(test)]
mod tests;
