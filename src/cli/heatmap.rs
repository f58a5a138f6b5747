/*!
The picture of a sidecar: two panels, scale and offset, each a grid of layers by heads whose
cells are the darker the larger the vector's norm.
*/

use std::fmt::Write;

use jola_edit::sidecar::{HeadNorms, SidecarStats};
use jola_edit::Sidecar;

const CELL: usize = 14;
const LEFT: usize = 48;
const TOP: usize = 64;
const GAP: usize = 56;

/// One panel: its title, its colour at full norm, and the norm that it shows.
struct Panel {
    title: &'static str,
    rgb: [u8; 3],
    norm: fn(&HeadNorms) -> Option<f64>,
}

const PANELS: [Panel; 2] = [
    Panel {
        title: "scale |g·m|",
        rgb: [178, 24, 43],
        norm: |head| head.mul,
    },
    Panel {
        title: "offset |g·a|",
        rgb: [33, 102, 172],
        norm: |head| head.add,
    },
];

/// Draws the heat map. Layers run downwards, heads to the right, both from 0.
pub fn svg(sidecar: &Sidecar, stats: &SidecarStats) -> String {
    let layers = sidecar.block_count as usize;
    let head_count = |layer: usize| sidecar.head_count.at(layer as u32).unwrap_or(0) as usize;
    let heads = (0..layers).map(head_count).max().unwrap_or(0);
    let panel_width = LEFT + heads * CELL;
    let width = 2 * panel_width + GAP + 16;
    let height = TOP + layers * CELL + 40;
    let mut out = String::new();
    let title = format!(
        "{}: {} of {} heads edited",
        sidecar.name, stats.edited_heads, stats.heads
    );
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"13\">{}</text>\n",
        escape(&title)
    );
    for (index, panel) in PANELS.iter().enumerate() {
        let left = LEFT + index * (panel_width + GAP);
        draw_panel(&mut out, panel, stats, left, layers, &head_count);
    }
    out.push_str("</svg>\n");
    out
}

fn draw_panel(
    out: &mut String,
    panel: &Panel,
    stats: &SidecarStats,
    left: usize,
    layers: usize,
    head_count: &dyn Fn(usize) -> usize,
) {
    let largest = stats
        .norms
        .iter()
        .filter_map(panel.norm)
        .fold(0.0, f64::max);
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"{}\">{}, largest {largest:.3}</text>",
        TOP - 22,
        panel.title
    );
    let widest = (0..layers).map(head_count).max().unwrap_or(0);
    for head in (0..widest).step_by(widest.div_ceil(16).max(1)) {
        let x = left + head * CELL + CELL / 2;
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"8\">{head}</text>",
            TOP - 6
        );
    }
    for layer in 0..layers {
        let y = TOP + layer * CELL;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"8\">{layer}</text>",
            left - 6,
            y + CELL - 4
        );
        for head in 0..head_count(layer) {
            let x = left + head * CELL;
            cell(
                out,
                x,
                y,
                "#f4f4f4",
                &format!("layer {layer}, head {head}: closed"),
            );
        }
    }
    for head in &stats.norms {
        let Some(norm) = (panel.norm)(head) else {
            continue;
        };
        let (x, y) = (
            left + head.head as usize * CELL,
            TOP + head.layer as usize * CELL,
        );
        let hint = format!("layer {}, head {}: {norm:.4}", head.layer, head.head);
        // An open gate is visible however small its vector is.
        let share = if largest > 0.0 {
            0.2 + 0.8 * norm / largest
        } else {
            0.2
        };
        cell(out, x, y, &shade(panel.rgb, share), &hint);
    }
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"{}\" font-size=\"9\" fill=\"#666\">rows: layers, columns: heads</text>",
        TOP + layers * CELL + 18
    );
}

fn cell(out: &mut String, x: usize, y: usize, fill: &str, hint: &str) {
    let size = CELL - 2;
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" fill=\"{fill}\">\
         <title>{hint}</title></rect>"
    );
}

/// A colour between white (0) and `rgb` (1).
fn shade(rgb: [u8; 3], share: f64) -> String {
    let [r, g, b] = rgb.map(|full| (255.0 - share * (255.0 - f64::from(full))).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
